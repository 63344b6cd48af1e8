"""Examples depend on their key and label, and on nothing else that is drawn with them."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_dmmd, digits_dmmd, text_block_dmmd
from dmmd_jax import drawing, parallel
from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.diffusion.samplers.ancestral import Ancestral
from dmmd_jax.diffusion.samplers.revealing import Threshold
from dmmd_jax.phases import build

MESH = parallel.make_mesh()


def random_params(denoiser):
  abstract = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), x.dtype), abstract)


@pytest.mark.parametrize("batch", [1, 3, 8, 10, 16, 100])
def test_any_batch_size_draws_the_same_examples(batch):
  sizes = []

  def draw(params, keys, labels):
    sizes.append((len(keys), labels.sharding.is_fully_replicated))
    return jnp.stack([jax.random.key_data(keys)[:, 1], labels.astype(jnp.uint32)], 1)

  model = drawing.Model(None, {}, None, MESH)
  labels = np.arange(20, dtype=np.int32) % 7
  drawn = np.concatenate([*drawing.draw_batches(model, draw, 5, labels, batch)])
  keys = [jax.random.fold_in(jax.random.key(5), i) for i in range(20)]
  np.testing.assert_array_equal(drawn[:, 0], [jax.random.key_data(key)[1] for key in keys])
  np.testing.assert_array_equal(drawn[:, 1], labels)
  # Of one size each, and split over the eight devices where it can be.
  expected = {1: (1, True), 3: (3, True), 8: (8, False), 10: (8, False), 16: (16, False)}
  assert {*sizes} == {expected.get(batch, (16, False))}


@pytest.mark.parametrize(
  ("shape", "num_categories", "expected"),
  [((8, 8, 1), 17, 256), ((32, 32, 3), 256, 21), ((1024,), 50257, 1)],
)
def test_batches_take_moderate_memory(shape, num_categories, expected):
  process = types.SimpleNamespace(num_categories=num_categories)
  assert drawing.batch_size(types.SimpleNamespace(shape=shape, process=process)) == expected


def test_every_example_is_what_the_sampler_draws_from_its_key_for_its_label():
  config = digits_dmmd.get_config()
  config.network.update({"width": 16, "depth": 1, "heads": 2, "classes": True})
  denoiser = build.make_denoiser(config, build.make_dataset(config)).guided(1.0)
  params = random_params(denoiser)
  keys, labels = drawing.example_keys(2, 7, 4), np.array([0, 9, 9, 3])
  drawn = drawing.make_draw(denoiser, 2, 0.9, 0.8)(params, keys, labels)
  sample = build.make_sampler(denoiser, None, None, 0.9, 0.8)
  one = jax.jit(lambda key, label: sample(params, key, (1, 8, 8, 1), 2, label[None]).tokens[0])
  expected = [one(key, label) for key, label in zip(keys, labels, strict=True)]
  np.testing.assert_array_equal(drawn, expected)
  assert (one(keys[0], jnp.int32(5)) != drawn[0]).any()


def test_texts_that_are_drawn_together_are_those_that_are_drawn_alone():
  config = text_block_dmmd.get_config()
  config.dataset.length = 12
  config.network.update({"width": 16, "depth": 1, "heads": 2, "block": 4})
  denoiser = build.make_denoiser(config, build.outline(config))
  params = random_params(denoiser)
  stream = drawing.make_stream(denoiser, np.array([3, 1, 4, 1, 5]), 2, 1.0, 1.0)
  keys = drawing.example_keys(0, 0, 3)
  blocks = [*stream(params, keys)]
  assert [block.shape for block in blocks] == [(3, 4)] * 3
  texts = np.concatenate(blocks, 1)
  assert (texts[:, :5] == [3, 1, 4, 1, 5]).all() and texts.min() >= 0 and texts.max() < 27
  assert (texts[0, 5:] != texts[1, 5:]).any()
  np.testing.assert_array_equal(np.concatenate([*stream(params, keys[1:2])], 1), texts[1:2])


def test_images_need_no_data_unless_the_network_depends_on_them():
  config = cifar_dmmd.get_config()
  assert not drawing._needs_data(config)
  outline, whole = build.outline(config), build.make_denoiser
  config.dataset.name = "stripes"
  expected = whole(config, build.make_dataset(config)).module.config
  assert whole(config, outline).module.config == expected
  for field, value in (("process.name", "marginal"), ("network.classes", True)):
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({field: value})
    assert drawing._needs_data(other)


@pytest.mark.parametrize("sampler", [Ancestral(skip=True), Threshold()], ids=repr)
def test_evaluations_that_no_example_needs_are_left_out(sampler):
  calls = []

  def log_mean(params, z, t, key):
    jax.debug.callback(lambda _: calls.append(1), t[0])
    return jnp.log(jnp.broadcast_to(jnp.array([0.01, 0.98, 0.01]), (*z.shape, 3)))

  network = types.SimpleNamespace(
    process=processes.Masked(3), shape=(6,), num_blocks=1, num_classes=0, log_mean=log_mean,
    empty_cache=lambda n: None,
  )  # fmt: skip
  network.given = lambda batch: network
  keys, how = drawing.example_keys(0, 0, 2), (100, 1.0, 1.0, Sampling(sampler))
  draws = (
    lambda: drawing.make_draw(network, *how)((), keys, np.zeros(2, np.int32)),
    lambda: next(drawing.make_stream(network, np.zeros(0, np.int32), *how)((), keys)),
  )
  for draw in draws:
    drawn = np.asarray(draw())
    jax.effects_barrier()
    assert drawn.shape == (2, 6) and drawn.max() < 3
    # A callback comes for each of the two examples, which have six tokens.
    assert 0 < len(calls) <= 2 * 2 * 6
    calls.clear()
