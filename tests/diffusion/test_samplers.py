import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data import toy
from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.samplers import ancestral_sample, mean_entropy, truncate


def exact(joint, process):
  return lambda z, t, key: joint.log_mean(process, z, t)


@pytest.mark.parametrize("process", [processes.Masked(2), processes.Uniform(2)])
def test_coins_need_steps(process):
  """One step of the exact teacher gets half of the correlated pairs wrong; many get few wrong."""
  joint = toy.coins()
  wrong = {}
  for nfe in (1, 64):
    x = ancestral_sample(exact(joint, process), process, jax.random.key(0), (4000, 2), nfe).tokens
    wrong[nfe] = float((x[:, 0] != x[:, 1]).mean())
    assert 0.45 < x[:, 0].mean() < 0.55
  assert 0.45 < wrong[1] < 0.55
  assert wrong[64] < 0.05


@pytest.mark.parametrize("process", [processes.Masked(3), processes.Uniform(3)])
def test_one_position_is_sampled_exactly_in_one_step(process):
  joint = toy.Mixture(np.array([1.0]), np.array([[[0.6, 0.3, 0.1]]]))
  for nfe in (1, 3):
    x = ancestral_sample(exact(joint, process), process, jax.random.key(0), (40000, 1), nfe).tokens
    np.testing.assert_allclose(np.bincount(x[:, 0]) / 40000, [0.6, 0.3, 0.1], atol=0.0125)


def test_samples_hold_no_mask_and_entropy_is_that_of_the_predictions():
  process = processes.Masked(4)

  def predict(z, t, key):
    return jnp.full((*z.shape, 4), -jnp.log(4.0))

  for nfe in (1, 2, 7):
    samples = ancestral_sample(predict, process, jax.random.key(0), (8, 5, 5, 3), nfe)
    assert samples.tokens.shape == (8, 5, 5, 3) and samples.tokens.max() < 4
    np.testing.assert_allclose(samples.entropy, np.log(4.0), rtol=1e-5)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
  log_probs = jnp.log(jnp.array([[0.1, 0.5, 0.3, 0.1]]))
  kept = jnp.isfinite(truncate(log_probs, top_p=0.75)[0])
  assert kept.tolist() == [False, True, True, False]
  np.testing.assert_allclose(np.exp(truncate(log_probs, top_p=0.75)).sum(), 1.0, rtol=1e-6)
  assert jnp.isfinite(truncate(log_probs, top_p=1e-6)[0]).tolist() == [False, True, False, False]
  assert truncate(log_probs, top_p=1.0) is log_probs
  ties = jnp.log(jnp.full((1, 4), 0.25))
  assert int(jnp.isfinite(truncate(ties, top_p=0.5)).sum()) == 2


def test_finite_penalty_lowers_excluded_categories_by_a_constant():
  log_probs = jnp.log(jnp.array([0.6, 0.3, 0.1]))
  penalised = truncate(log_probs, top_p=0.5, penalty=2.0)
  np.testing.assert_allclose(
    penalised[0] - penalised[1], log_probs[0] - log_probs[1] + 2.0, rtol=1e-5
  )


def test_temperature_divides_log_probabilities():
  log_probs = jnp.log(jnp.array([0.8, 0.2]))
  cold = truncate(log_probs, temperature=0.5)
  np.testing.assert_allclose(np.exp(cold), [0.64 / 0.68, 0.04 / 0.68], rtol=1e-5)


def test_mean_entropy_ignores_inactive_positions_and_certain_categories():
  log_probs = jnp.array([[0.0, -jnp.inf], [jnp.log(0.5), jnp.log(0.5)]])
  np.testing.assert_allclose(mean_entropy(log_probs, jnp.array([False, True])), np.log(2.0))
  assert mean_entropy(log_probs, jnp.array([False, False])) == 0
