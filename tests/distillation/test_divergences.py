"""Divergences beside their definitions in float64, and what their means leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax import positions
from dmmd_jax.distillation.divergences import DIVERGENCES, mean_divergence
from dmmd_jax.positions import Deferred

B, D, K = 3, 4, 5
RNG = np.random.default_rng(0)
P, Q = RNG.dirichlet(np.ones(K), (2, B, D))
WHERE = RNG.random((B, D)) < 0.5
DEFINITIONS = {
  "kl_student_teacher": lambda p, q: (p * np.log(p / q)).sum(-1),
  "kl_teacher_student": lambda p, q: (q * np.log(q / p)).sum(-1),
  "squared_error": lambda p, q: (np.log(p / q) ** 2).mean(-1),
  "tv": lambda p, q: np.maximum(p - q, 0).sum(-1),
}


def value_and_gradient(name, log_p, log_q, where):
  """Of deferred log-probabilities, as networks give them."""

  def loss(log_p):
    deferred = (Deferred(lambda a: a, (jnp.asarray(a, jnp.float32),)) for a in (log_p, log_q))
    return mean_divergence(name, *deferred, jnp.asarray(where))

  return jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.asarray(log_p, jnp.float32))


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_means_are_of_the_positions_that_count(name, in_parts, monkeypatch):
  if in_parts:
    monkeypatch.setattr(positions, "_PART_BYTES", 2 * B * K * 4)
  assert 0 < WHERE.sum() < WHERE.size
  (loss, entropy), gradient = value_and_gradient(name, np.log(P), np.log(Q), WHERE)
  np.testing.assert_allclose(loss, DEFINITIONS[name](P, Q)[WHERE].mean(), rtol=1e-5)
  np.testing.assert_allclose(entropy, -(P * np.log(P)).sum(-1)[WHERE].mean(), rtol=1e-5)
  assert (gradient[~WHERE] == 0).all() and (gradient[WHERE] != 0).any(-1).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_nothing_counts(name):
  (loss, entropy), gradient = value_and_gradient(name, np.log(P), np.log(Q), np.zeros((B, D), bool))
  assert loss == entropy == 0 and (gradient == 0).all()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_categories_that_never_occur_make_no_difference(name):
  """Networks round their logarithm, -1e9, differently."""
  everywhere = np.ones((B, D), bool)
  log_p, log_q = (np.concatenate([np.log(a), np.full((B, D, 1), -1e9)], -1) for a in (P, Q))
  log_p[..., -1] -= 128
  (loss, _), gradient = value_and_gradient(name, log_p, log_q, everywhere)
  (expected, _), _ = value_and_gradient(name, np.log(P), np.log(Q), everywhere)
  np.testing.assert_allclose(
    loss, expected * (K / (K + 1) if name == "squared_error" else 1), rtol=1e-5
  )
  assert (gradient[..., -1] == 0).all()
