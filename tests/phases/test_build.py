"""Denoisers that know classes, and images as data sets."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_dmmd, coins_dmmd, digits_dmmd
from dmmd_jax import parallel
from dmmd_jax.config_file import ConfigError
from dmmd_jax.data.images import ImageError
from dmmd_jax.data.pipeline import Batch, Dataset
from dmmd_jax.phases import build, distill, evaluate, teacher
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.positions import whole
from tests.pairs import in_pairs


@pytest.fixture(scope="module")
def of_classes():
  """A denoiser of digits given their class, and parameters for which the class matters."""
  config = digits_dmmd.get_config()
  config.network.update({"width": 32, "depth": 1, "classes": True})
  denoiser = build.make_denoiser(config, build.make_dataset(config))
  return config, denoiser, random_parameters(denoiser)


def random_parameters(denoiser):
  """Parameters for which all that a network is told matters."""
  params = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), params)


def test_guidance_moves_away_from_the_prediction_without_a_label(of_classes):
  _, denoiser, params = of_classes
  labels, none = jnp.array([3, 7]), jnp.full(2, 10)
  z, t = jnp.full((2, 8, 8, 1), denoiser.process.num_categories), jnp.ones(2)

  def log_probs(params, denoiser, labels):
    return whole(denoiser.given(Batch(None, labels)).log_probs(params, z, t))

  @jax.jit
  def compute(params):
    given, without = (log_probs(params, denoiser, y) for y in (labels, none))
    guided, unguided = (log_probs(params, denoiser.guided(w), labels) for w in (1.5, 0.0))
    return given, without, guided, unguided, jax.nn.log_softmax(2.5 * given - 1.5 * without)

  given, without, guided, unguided, expected = jax.device_get(compute(params))
  assert np.abs(given - without).max() > 0.01
  np.testing.assert_allclose(guided, expected, atol=1e-5)
  np.testing.assert_array_equal(unguided, given)


def test_without_classes_guidance_moves_away_from_the_prediction_at_masks_alone():
  config = digits_dmmd.get_config()
  config.network.update({"width": 32, "depth": 1})
  denoiser = build.make_denoiser(config, build.make_dataset(config))
  params = random_parameters(denoiser)
  masks = denoiser.process.sample_prior(None, (3, 8, 8, 1))
  t = jnp.array([0.2, 0.6, 1.0])
  some = denoiser.process.corrupt(jax.random.key(1), jnp.full_like(masks, 5), t)

  @jax.jit
  def compute(params):
    log_probs = lambda denoiser, z, t: whole(denoiser.log_probs(params, z, t))
    seen, unseen = log_probs(denoiser, some, t), log_probs(denoiser, masks, jnp.ones(3))
    expected = jax.nn.log_softmax(2.5 * seen - 1.5 * unseen)
    return seen, expected, log_probs(denoiser.guided(1.5), some, t)

  seen, expected, guided = jax.device_get(compute(params))
  np.testing.assert_allclose(guided, expected, atol=1e-4)
  moved = np.abs(guided - seen).max((1, 2, 3, 4))
  # Where all is masked there is nothing to be guided by.
  assert (moved[:2] > 0.1).all() and moved[2] < 1e-4


def test_a_sampler_asks_for_all_classes_equally_often(of_classes):
  _, denoiser, _ = of_classes
  asked = []

  class Spy(Denoiser):
    def log_mean(self, params, z, t, key=None):
      asked.append(self.labels)
      return jnp.zeros((*z.shape, 17))

  spy = Spy(**{f.name: getattr(denoiser, f.name) for f in dataclasses.fields(denoiser)})
  build.make_sampler(spy, parallel.make_mesh())(None, jax.random.key(0), (40, 8, 8, 1), 1)
  assert (np.bincount(np.asarray(asked[0]), minlength=10) == 4).all()


def test_teachers_lose_some_labels_in_training(of_classes, monkeypatch):
  config, denoiser, params = of_classes
  seen = []
  monkeypatch.setattr(
    teacher, "losses_at_random_times", lambda *args: seen.append(args[3].labels) or (0.0, None)
  )
  batch = Batch(jnp.zeros((1000, 8, 8, 1), jnp.int32), jnp.full(1000, 4))
  teacher.teacher_loss(params, denoiser, config.teacher, batch, jax.random.key(0))
  counts = np.bincount(np.asarray(seen[0]), minlength=11)
  assert 60 < counts[10] < 140 and counts[4] == 1000 - counts[10]


def test_distillation_of_a_guided_teacher_in_bfloat16(of_classes, monkeypatch):
  """Every method runs with labels; the frozen teacher is kept as the config says."""
  in_pairs(monkeypatch)
  config = of_classes[0].copy_and_resolve_references()
  config.distill.update({"batch_size": 8, "guidance": 1.0, "teacher_dtype": "bfloat16"})
  config.distill.score.scales = ((0, 1, (2.0,)),)
  dataset = build.make_dataset(config)
  auxiliary = build.make_denoiser(config, dataset)
  shapes = jax.eval_shape(auxiliary.init, jax.random.key(0))
  params = jax.tree.map(lambda x: jnp.asarray(np.ones(x.shape, x.dtype)), shapes)
  for config.distill.method, updates in (("dmmd_kernel", 2), ("kernel_score", 1)):
    config.distill.score.target = "teacher" if updates == 1 else "data"
    config.distill.score.target_nfe = 1
    method = distill.make_method(config, dataset)
    n = 8 * updates
    batch = Batch(jnp.asarray(dataset.train[:n]), jnp.asarray(dataset.train_labels[:n]))

    @jax.jit
    def init_and_step(params, batch, key, method=method):
      state = nn.unbox(method.init(key, params))
      return state.teacher, method.step(state, batch, key)[1]

    frozen, metrics = jax.device_get(init_and_step(params, batch, jax.random.key(1)))
    assert {x.dtype for x in jax.tree.leaves(frozen)} == {jnp.dtype("bfloat16")}
    assert all(np.isfinite(value) for value in metrics.values())


def test_images_are_what_the_config_says_or_one_clear_line(tmp_path):
  config = cifar_dmmd.get_config()
  config.dataset.name = "stripes"
  data = build.make_dataset(config)
  assert data.shape == (32, 32, 3) and data.flip and data.num_classes == 10
  np.savez(tmp_path / "grey.npz", images=np.zeros((20, 8, 8), np.uint8))
  config.dataset.update({"name": "npz", "path": str(tmp_path / "grey.npz")})
  with pytest.raises(ImageError, match=r"images of npz are \(8, 8, 1\); dataset.shape is"):
    build.make_dataset(config)
  config.dataset.shape = (8, 8, 1)
  assert build.make_dataset(config).num_classes == 0
  config.network.classes = True
  with pytest.raises(ConfigError, match="npz has no labels"):
    build.make_dataset(config)


ROWS = np.arange(20).reshape(10, 2)


@pytest.mark.parametrize(
  ("changed", "message"),
  [
    ({}, ""),
    # The last token is that of the mask.
    ({"num_categories": 19}, "train are 0 to 19; expected 0 to 18, as num_categories is 19"),
    ({"held_out": ROWS[:3] - 1}, "held_out are -1 to 4; expected 0 to 19"),
    ({"train": ROWS + 0.7}, "train are float64; expected integers"),
    ({"validation": np.zeros((3, 4), int)}, r"validation are \(4,\), those of train \(2,\)"),
    ({"train_labels": np.zeros(9, int)}, "train has 10 examples and 9 labels"),
    ({name: np.tile(ROWS, (1, 2)) for name in ("train", "held_out")}, r"\(4,\); the config has"),
  ],
)
def test_data_of_ones_own_are_as_a_data_set_is(changed, message, monkeypatch):
  given = {"train": ROWS, "held_out": ROWS[:3], "num_categories": 20} | changed
  monkeypatch.setattr(build, "_load_dataset", lambda _: Dataset(**given))
  if not message:
    build.make_dataset(coins_dmmd.get_config())
    return
  with pytest.raises(ConfigError, match=f"the (data|examples of) coins.*{message}"):
    build.make_dataset(coins_dmmd.get_config())


def test_what_is_asked_of_data_is_there(monkeypatch):
  dataset = Dataset(ROWS, ROWS[:3], 20)
  monkeypatch.setattr(build, "_load_dataset", lambda _: dataset)
  config = coins_dmmd.get_config()
  config.evaluate.split = "validation"
  with pytest.raises(ConfigError, match="coins has no such split: set it to held_out"):
    build.make_dataset(config)
  config = coins_dmmd.get_config()
  config.network.classes = True
  with pytest.raises(ConfigError, match="coins has no labels: set it to False"):
    build.make_dataset(config)
  config = coins_dmmd.get_config()
  with config.unlocked():
    config.network.update({"vocab_size": 24, "mask_token": 3})
  with pytest.raises(ConfigError, match=r"the data have 20 tokens, .*mask_token 3; set these to"):
    build.make_dataset(config)


def test_without_the_weights_of_inception_one_line_says_what_is_measured_instead(capsys):
  config = cifar_dmmd.get_config()
  config.evaluate.inception = "/nowhere/weights.pth"
  assert evaluate.load_fid(config, None, None) is None
  said = capsys.readouterr().out
  assert said.count("\n") == 1 and "/nowhere/weights.pth" in said and "classifier" in said


@pytest.mark.parametrize(
  ("name", "num", "expected"),
  [("masked", 1030, 1152), ("masked", 900, 900), ("uniform", 1030, 1152), ("marginal", 1030, 1152)],
)
def test_large_vocabularies_are_a_multiple_of_128(name, num, expected):
  config = coins_dmmd.get_config()
  config.process.name = name
  rows = np.zeros((20, 8), np.int32)
  denoiser = build.make_denoiser(config, Dataset(rows, rows, num))
  sizes = denoiser.module.config
  assert denoiser.process.num_categories == sizes.num_categories == expected
  assert sizes.num_unused == denoiser.process.num_unused == expected - num


@pytest.mark.parametrize(
  ("process", "loss"),
  [("masked", "bound"), ("uniform", "bound"), ("uniform", "cross_entropy"), ("marginal", "bound")],
)
def test_the_categories_at_the_end_of_a_large_vocabulary_never_occur(process, loss):
  config, num = coins_dmmd.get_config(), 1030
  config.network.update({"width": 8, "depth": 1, "heads": 1})
  config.process.name, config.teacher.loss = process, loss
  rows = np.random.default_rng(0).integers(0, num, (20, 8), np.int32)
  denoiser = build.make_denoiser(config, Dataset(rows, rows, num))
  z, t = denoiser.process.sample_prior(jax.random.key(2), (3, 8)), jnp.ones(3)
  loss = lambda params: teacher.teacher_loss(
    params, denoiser, config.teacher, Batch(rows), jax.random.key(1)
  )
  sample = build.make_sampler(denoiser, None, temperature=2.0, top_p=0.9)

  @jax.jit
  def compute(key):
    params = nn.unbox(denoiser.init(key))  # which predict all that may occur alike
    probs = jnp.exp(whole(denoiser.log_mean(params, z, t)))
    return probs, jax.value_and_grad(loss)(params), sample(params, key, (50, 8), 2)

  probs, losses, drawn = jax.device_get(compute(jax.random.key(0)))
  assert probs.shape == (3, 8, 1152) and not probs[..., num:].any()
  np.testing.assert_allclose(probs[..., :num], 1 / num, rtol=1e-4)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(losses))
  assert drawn.tokens.max() < num and np.isfinite(drawn.entropy)
  noise = denoiser.process.corrupt(
    jax.random.key(3), jnp.zeros((20_000, 8), jnp.int32), jnp.ones(1)
  )
  assert process == "masked" or noise.max() == num - 1
