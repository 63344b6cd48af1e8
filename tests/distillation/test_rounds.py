"""Rounds in which a student becomes the teacher: when, with what, and that they can be resumed."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.dcd import DCD, DCDSettings
from dmmd_jax.distillation.sdtt import SDTT, SDTTSettings
from tests.distillation.lookups import D, Lookup, make_parts

K, NUM_STEPS, ROUNDS, FIRST = 2, 8, 3, 1 / 16
# Two steps in each of the first rounds, and the two that are left over in the last.
STEP_SIZES = [1 / 16, 1 / 16, 1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 4]
MASKED = processes.Masked(K)
KEY = jax.random.key(3)


def start(parts):
  params = Lookup(parts.process).init(jax.random.key(1))
  return nn.unbox(updates.init(parts, KEY, params))


def leaves(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_student_becomes_the_teacher_when_its_round_ends(dtype):
  """Adam goes on through all of them, as in one run against a target that no teacher changes."""
  parts = make_parts(MASKED, NUM_STEPS, dtype=dtype)

  def loss(eta, theta, step_size, batch, key):
    pull = sum(((a - step_size) ** 2).sum() for a in jax.tree.leaves(eta))
    return pull, {"of_teacher": theta["logits"].astype(jnp.float32).sum()}

  @jax.jit
  def step(state):
    return updates.update_in_rounds(parts, loss, ROUNDS, FIRST, state, None, KEY)

  state = start(parts)
  params, optimizer = state.student.params, optax.adam(0.1)
  moments, teacher = optimizer.init(params), jax.tree.map(lambda a: a.astype(dtype), params)
  for i, step_size in enumerate(STEP_SIZES):
    state, metrics = step(state)
    assert metrics["step_size"] == step_size
    expected = teacher["logits"].astype(jnp.float32).sum()
    np.testing.assert_allclose(metrics["of_teacher"], expected, rtol=1e-5)
    grads = jax.tree.map(lambda a, size=step_size: 2 * (a - size), params)
    change, moments = optimizer.update(grads, moments)
    params = optax.apply_updates(params, change)
    np.testing.assert_allclose(leaves(state.student.params), leaves(params), atol=1e-6)
    if i in (1, 3):
      teacher = jax.tree.map(lambda a: a.astype(dtype), state.student.params)
    assert state.teacher["logits"].dtype == dtype
    np.testing.assert_array_equal(leaves(state.teacher), leaves(teacher))
  assert np.abs(leaves(state.ema) - leaves(params)).max() > 1e-3


METHODS = {
  "sdtt": lambda parts: SDTT(parts, SDTTSettings(ROUNDS, 16)),
  "dcd": lambda parts: DCD(parts, DCDSettings(ROUNDS, 16)),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_run_is_resumed_in_the_middle_of_a_round(name):
  """Through bytes and back, after the first step of the second round, with parts of a batch."""
  method = METHODS[name](make_parts(MASKED, NUM_STEPS, microbatches=2))
  step = jax.jit(method.step)
  batch = Batch(jax.random.randint(KEY, (8, D), 0, K))
  state, sizes = start(method.parts), []
  for i in range(NUM_STEPS):
    if i == 3:
      saved = flax.serialization.to_bytes(state)
    state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
    assert all(np.isfinite(value) for value in metrics.values())
    sizes.append(float(metrics["step_size"]))
  assert sizes == STEP_SIZES
  resumed = flax.serialization.from_bytes(start(method.parts), saved)
  for i in range(3, NUM_STEPS):
    resumed, _ = step(resumed, batch, jax.random.fold_in(KEY, i))
  np.testing.assert_array_equal(leaves(resumed), leaves(state))
  assert (leaves(start(method.parts).teacher) != leaves(state.teacher)).any()
