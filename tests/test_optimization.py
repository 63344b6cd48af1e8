"""Optimisers whose moments take less memory than Adam's, beside their updates written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits_dmmd
from dmmd_jax import optimization, parallel

STEPS, RATE = 5, 0.1
SHAPES = {"kernel": (128, 3, 160), "bias": (160,)}
NAMES = {"kernel": ("embed", "heads", "mlp"), "bias": ("mlp",)}


def config(moments, b1):
  c = digits_dmmd.optimizer(RATE, "constant", b1, 0.9)
  c.update({"moments": moments, "warmup_steps": 0, "clip_norm": 1e9, "weight_decay": 0.3})
  return c


def drawn(seed):
  """One draw for every parameter; gradients of a row, or a column, are of a size."""
  rng = np.random.default_rng(seed)
  sizes = [np.exp(rng.normal(size=(128, 1, 1))), np.exp(rng.normal(size=160))]
  return {n: (sizes[n == "bias"] * rng.normal(size=shape)).astype(np.float32)
          for n, shape in SHAPES.items()}  # fmt: skip


def trained(optimizer, shardings=None):
  """Parameters after some updates, and the state of the optimiser."""
  model = jax.device_put(optimization.Trainable.create(drawn(0), optimizer), shardings)
  update = jax.jit(lambda model, grads: model.update(grads, optimizer))
  for i in range(STEPS):
    model = update(model, drawn(1 + i))
  return model.params, model.opt_state


def elements(opt_state, dtype=None):
  return sum(x.size for x in jax.tree.leaves(opt_state) if dtype in (None, x.dtype) and x.ndim)


def test_without_a_mean_of_gradients_it_is_adam():
  adam = optax.adamw(RATE, 0.0, 0.9, weight_decay=0.3)
  expected, _ = trained(adam)
  found, state = trained(optimization.make_optimizer(config("float32", 0.0), STEPS))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), found, expected)
  assert elements(state) == elements(drawn(0))


def test_a_mean_of_gradients_in_bfloat16_is_near_that_in_float32():
  expected, whole = trained(optimization.make_optimizer(config("float32", 0.9), STEPS))
  found, state = trained(optimization.make_optimizer(config("bfloat16", 0.9), STEPS))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=0.01), found, expected)
  assert elements(state, jnp.bfloat16) == elements(state, jnp.float32) == elements(whole) / 2


def adafactor(b1):
  """Updates of Adafactor (arXiv 1804.04235, Algorithm 4) in float64.

  Its decay is Adam's with the bias corrected, its mean of gradients is one of updates.
  """
  params = {n: p.astype(np.float64) for n, p in drawn(0).items()}
  rows, columns, squares, means = np.zeros((128, 3)), np.zeros((3, 160)), np.zeros(160), {}
  for count in range(STEPS):
    grads, unbiased = drawn(1 + count), 1 - 0.9 ** (count + 1)
    rows = 0.9 * rows + 0.1 * (grads["kernel"].astype(np.float64) ** 2).mean(2)
    columns = 0.9 * columns + 0.1 * (grads["kernel"].astype(np.float64) ** 2).mean(0)
    squares = 0.9 * squares + 0.1 * grads["bias"].astype(np.float64) ** 2
    product = rows[:, :, None] * columns / rows.mean(0)[:, None]
    for name, square in {"kernel": product, "bias": squares}.items():
      update = grads[name] / np.sqrt(square / unbiased)
      update /= max(1.0, np.sqrt((update**2).mean()))
      means[name] = b1 * means.get(name, 0.0) + (1 - b1) * update
      change = means[name] / (1 - b1 ** (count + 1)) + 0.3 * params[name]
      params[name] = params[name] - RATE * change
  return params


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_factored_moments_are_those_of_adafactor(b1):
  found, state = trained(optimization.make_optimizer(config("factored", b1), STEPS))
  tolerance = 0.01 if b1 else 1e-5  # bfloat16
  for name, expected in adafactor(b1).items():
    np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=tolerance)
  assert elements(state, jnp.float32) < elements(drawn(0)) / 50
  assert elements(state, jnp.bfloat16) == (elements(drawn(0)) if b1 else 0)


@pytest.mark.parametrize("b1", [0.0, 0.9])
def test_factored_moments_of_split_parameters_are_those_of_whole_ones(b1):
  mesh = parallel.make_mesh((1, 4, 2))
  optimizer = optimization.make_optimizer(config("factored", b1), STEPS)
  expected, _ = trained(optimizer)

  def init():
    boxes = {n: nn.LogicallyPartitioned(jnp.zeros(s), NAMES[n]) for n, s in SHAPES.items()}
    return optimization.Trainable.create(boxes, optimizer)

  shardings = parallel.state_shardings(mesh, jax.eval_shape(init))
  with parallel.use(mesh):
    found, _ = trained(optimizer, shardings)
  assert len(found["kernel"].addressable_shards[0].data) < len(found["kernel"])
  tolerance = 0.01 if b1 else 1e-5  # bfloat16
  for name in SHAPES:
    np.testing.assert_allclose(found[name], expected[name], rtol=1e-4, atol=tolerance)
