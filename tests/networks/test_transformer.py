import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.networks.noise import noise_channels
from dmmd_jax.networks.transformer import Transformer, TransformerConfig

IMAGE = TransformerConfig(
  shape=(8, 8, 2), num_states=6, num_categories=5, width=32, depth=2, heads=2, patch=2
)
TEXT = dataclasses.replace(IMAGE, shape=(12,), patch=1)


def inputs(config, batch=3):
  rng = np.random.default_rng(0)
  z = rng.integers(0, config.num_states, (batch, *config.shape), np.int32)
  return z, np.linspace(0, 1, batch, dtype=np.float32)


def changed(z, config, *place):
  """One token of every example is another."""
  z = z.copy()
  z[:, *place] = (z[:, *place] + 1) % config.num_states
  return z


def random_params(config):
  """Parameters away from their zero initialisation, so that every path matters."""
  z, t = inputs(config)
  params = nn.unbox(jax.eval_shape(Transformer(config).init, jax.random.key(0), z, t))
  rng = np.random.default_rng(1)
  return jax.tree.map(lambda a: rng.normal(0, 0.2, a.shape).astype(a.dtype), params)


@functools.partial(jax.jit, static_argnums=0)
def jitted(config, params, *args):
  return Transformer(config).apply(params, *args)


def apply(*args):
  return np.asarray(jitted(*args))


@pytest.mark.parametrize("config", [IMAGE, TEXT])
def test_logits_have_the_shape_of_the_tokens_and_start_at_zero(config):
  z, t = inputs(config)
  net = Transformer(config)
  logits = jax.jit(lambda key: net.apply(nn.unbox(net.init(key, z, t)), z, t))(jax.random.key(1))
  assert logits.shape == (*z.shape, config.num_categories) and logits.dtype == jnp.float32
  assert (logits == 0).all()


@pytest.mark.parametrize("config", [IMAGE, TEXT])
def test_every_position_sees_every_other(config):
  """The gradient of one token's logits reaches the embeddings of all tokens, in both directions."""
  params = random_params(config)
  z, t = inputs(config)
  other = changed(z, config, *(0,) * len(config.shape))
  moved = np.abs(apply(config, params, z, t) - apply(config, params, other, t)).max(-1)
  assert (moved > 1e-6).all()


def test_patches_keep_pixels_in_their_place():
  """With the attention closed, a pixel changes the logits of its own patch only."""
  params = random_params(IMAGE)
  z, t = inputs(IMAGE)
  closed = jax.tree_util.tree_map_with_path(
    lambda path, a: a * 0 if "attended" in jax.tree_util.keystr(path) else a, params
  )
  other = changed(z, IMAGE, 5, 2, 1)
  moved = np.abs(apply(IMAGE, closed, z, t) - apply(IMAGE, closed, other, t)).max((0, 3, 4))
  expected = np.zeros((8, 8), bool)
  expected[4:6, 2:4] = True
  np.testing.assert_array_equal(moved > 1e-6, expected)


def test_rotary_positions_tell_places_apart_and_time_matters():
  z = np.broadcast_to(np.arange(12, dtype=np.int32) == 3, (3, 12)).astype(np.int32)
  half, nine_tenths, _ = apply(TEXT, random_params(TEXT), z, np.float32([0.5, 0.9, 1.0]))
  assert np.abs(half[4] - half[8]).max() > 1e-5
  assert np.abs(half - nine_tenths).max() > 1e-5


@functools.cache
def gradient(remat):
  params, (z, t) = random_params(IMAGE), inputs(IMAGE)
  net = Transformer(dataclasses.replace(IMAGE, remat=remat))
  return jax.jit(jax.grad(lambda params: jnp.square(net.apply(params, z, t)).mean()))(params)


@pytest.mark.parametrize("remat", ["full", "narrow", "products"])
def test_remat_changes_nothing(remat):
  close = functools.partial(np.testing.assert_allclose, atol=1e-6)
  jax.tree.map(close, gradient(remat), gradient("none"))


def test_bfloat16_computes_close_to_float32_and_keeps_float32_parameters():
  params = random_params(IMAGE)
  z, t = inputs(IMAGE)
  wide = apply(IMAGE, params, z, t)
  config = dataclasses.replace(IMAGE, dtype=jnp.bfloat16)
  narrow = apply(config, params, z, t)
  assert narrow.dtype == np.float32
  assert 0 < np.abs(wide - narrow).max() < 0.1 * np.abs(wide).max()
  assert {a.dtype for a in jax.tree.leaves(random_params(config))} == {np.dtype("float32")}


def test_large_vocabularies_are_looked_up():
  config = dataclasses.replace(TEXT, num_states=2000, num_categories=2000)
  z, t = inputs(config)
  logits = apply(config, random_params(config), z, t)
  assert logits.shape == (3, 12, 2000) and np.isfinite(logits).all()


@pytest.mark.parametrize(("config", "kind"), [(IMAGE, "pyramid"), (TEXT, "gaussian")])
def test_student_starts_as_its_teacher(config, kind):
  channels = noise_channels(kind, config.shape, 4)
  student = dataclasses.replace(config, noise_channels=channels)
  z, t = inputs(config)
  rng = np.random.default_rng(2)
  noise = rng.normal(size=(3, *config.shape[:2], channels)).astype(np.float32)
  teacher_params = random_params(config)["params"]
  init = lambda key: nn.unbox(Transformer(student).init(key, z, t, noise))["params"]
  assert set(jax.eval_shape(init, jax.random.key(7))) - set(teacher_params) == {"noise"}
  fresh = jax.jit(lambda key: init(key)["noise"])(jax.random.key(7))
  params = {**teacher_params, "noise": fresh}
  expected = apply(config, {"params": teacher_params}, z, t)
  np.testing.assert_array_equal(apply(student, {"params": params}, z, t, noise), expected)
  params["noise"] = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype), fresh)
  moved = apply(student, {"params": params}, z, t, noise)
  assert np.abs(moved - expected).max() > 1e-4
