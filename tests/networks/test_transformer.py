import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.networks.noise import noise_channels, sample_noise
from dmmd_jax.networks.transformer import Transformer, TransformerConfig

IMAGE = TransformerConfig(
  shape=(8, 8, 2), num_states=6, num_categories=5, width=32, depth=2, heads=2, patch=2
)
TEXT = dataclasses.replace(IMAGE, shape=(12,), patch=1)


def inputs(config, batch=3):
  z = jax.random.randint(jax.random.key(0), (batch, *config.shape), 0, config.num_states)
  return z, jnp.linspace(0, 1, batch)


def random_params(config, key=1):
  """Parameters away from their zero initialisation, so that every path matters."""
  z, t = inputs(config)
  noise = jnp.zeros((3, *config.shape[:2], config.noise_channels))
  params = nn.unbox(jax.jit(Transformer(config).init)(jax.random.key(key), z, t, noise))
  rng = np.random.default_rng(key + 1)  # jax would compile for every shape
  return jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(a.dtype), params)


@pytest.mark.parametrize("config", [IMAGE, TEXT, dataclasses.replace(TEXT, positions="learned")])
def test_logits_have_the_shape_of_the_tokens_and_start_at_zero(config):
  z, t = inputs(config)
  params = jax.jit(Transformer(config).init)(jax.random.key(1), z, t)
  logits = jax.jit(Transformer(config).apply)(nn.unbox(params), z, t)
  assert logits.shape == (*z.shape, config.num_categories) and logits.dtype == jnp.float32
  assert (logits == 0).all()


@pytest.mark.parametrize("config", [IMAGE, TEXT])
def test_every_position_sees_every_other(config):
  """The gradient of one token's logits reaches the embeddings of all tokens, in both directions."""
  params = random_params(config)
  z, t = inputs(config, batch=1)
  changed = z.at[(0,) * z.ndim].set((z[(0,) * z.ndim] + 1) % config.num_states)
  net = Transformer(config)
  moved = jnp.abs(jax.jit(net.apply)(params, z, t) - jax.jit(net.apply)(params, changed, t)).max(-1)
  assert (moved > 1e-6).all()


def test_patches_keep_pixels_in_their_place():
  """With the attention closed, a pixel changes the logits of its own patch only."""
  params = random_params(IMAGE)
  z, t = inputs(IMAGE, batch=1)
  closed = jax.tree_util.tree_map_with_path(
    lambda path, a: a * 0 if "attended" in jax.tree_util.keystr(path) else a, params
  )
  net = Transformer(IMAGE)
  changed = z.at[0, 5, 2, 1].set((z[0, 5, 2, 1] + 1) % 6)
  moved = (
    jnp.abs(jax.jit(net.apply)(closed, z, t) - jax.jit(net.apply)(closed, changed, t)).max(
      (0, 3, 4)
    )
    > 1e-6
  )
  expected = np.zeros((8, 8), bool)
  expected[4:6, 2:4] = True
  np.testing.assert_array_equal(moved, expected)


def test_rotary_positions_tell_places_apart_and_time_matters():
  config = dataclasses.replace(TEXT, depth=1)
  params, net = random_params(config), Transformer(config)
  z = jnp.zeros((1, 12), jnp.int32).at[0, 3].set(1)
  logits = jax.jit(net.apply)(params, z, jnp.array([0.5]))
  assert jnp.abs(logits[0, 4] - logits[0, 8]).max() > 1e-5
  assert jnp.abs(logits - jax.jit(net.apply)(params, z, jnp.array([0.9]))).max() > 1e-5


@pytest.mark.parametrize("remat", ["full", "narrow", "products"])
def test_remat_changes_nothing(remat):
  params = random_params(IMAGE)
  z, t = inputs(IMAGE)

  def loss(params, remat):
    net = Transformer(dataclasses.replace(IMAGE, remat=remat))
    return jnp.square(jax.jit(net.apply)(params, z, t)).mean()

  for a, b in zip(
    jax.tree.leaves(jax.jit(jax.grad(loss), static_argnums=1)(params, "none")),
    jax.tree.leaves(jax.jit(jax.grad(loss), static_argnums=1)(params, remat)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters():
  params = random_params(IMAGE)
  z, t = inputs(IMAGE)
  wide = jax.jit(Transformer(IMAGE).apply)(params, z, t)
  narrow = Transformer(dataclasses.replace(IMAGE, dtype=jnp.bfloat16)).apply(params, z, t)
  assert narrow.dtype == jnp.float32
  assert jnp.abs(wide - narrow).max() < 0.1 * jnp.abs(wide).max()
  assert {a.dtype for a in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_large_vocabularies_are_looked_up():
  config = dataclasses.replace(TEXT, num_states=2000, num_categories=2000)
  z, t = inputs(config)
  logits = jax.jit(Transformer(config).apply)(random_params(config), z, t)
  assert logits.shape == (3, 12, 2000) and jnp.isfinite(logits).all()


@pytest.mark.parametrize(
  ("config", "kind"), [(IMAGE, "pyramid"), (IMAGE, "gaussian"), (TEXT, "gaussian")]
)
def test_student_starts_as_its_teacher(config, kind):
  channels = noise_channels(kind, config.shape, 4)
  student = dataclasses.replace(config, noise_channels=channels)
  z, t = inputs(config)
  noise = sample_noise(jax.random.key(2), kind, 3, config.shape, 4)
  assert noise.shape[-1] == channels
  teacher_params = random_params(config)["params"]
  fresh = nn.unbox(jax.jit(Transformer(student).init)(jax.random.key(7), z, t, noise))["params"]
  assert set(fresh) - set(teacher_params) == {"noise"}
  params = {**fresh, **teacher_params}
  expected = jax.jit(Transformer(config).apply)({"params": teacher_params}, z, t)
  np.testing.assert_array_equal(
    jax.jit(Transformer(student).apply)({"params": params}, z, t, noise), expected
  )
  params["noise"] = jax.tree.map(
    lambda a: jax.random.normal(jax.random.key(3), a.shape), params["noise"]
  )
  moved = jax.jit(Transformer(student).apply)({"params": params}, z, t, noise)
  assert jnp.abs(moved - expected).max() > 1e-4
