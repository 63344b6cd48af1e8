"""A test that keeps its level and has power where its kernel has."""

import numpy as np
import pytest

from dmmd_jax.mmd import two_sample_test
from dmmd_jax.mmd.kernels import Hamming, Linear
from tests.mmd.test_estimators import coins

HAMMING, LINEAR = Hamming(0.5, num_categories=2), Linear(num_categories=2)
KERNELS = HAMMING, LINEAR, Hamming(0.9, num_categories=2)


def rejections(correlation, repetitions, size=60, num_permutations=99):
  """The share of rejections at a level of 0.05: of the joint test, and of each of `KERNELS`."""
  rng = np.random.default_rng(1)
  results = [
    two_sample_test(
      coins(rng, size, correlation), coins(rng, size, 0.0), KERNELS, num_permutations, seed
    )
    for seed in range(repetitions)
  ]
  return np.mean([np.array([r.p_value, *r.p_values]) <= 0.05 for r in results], 0)


def test_false_positives_are_as_many_as_the_level_says():
  """Jointly, and of each kernel."""
  shares = rejections(0.0, 400)
  assert ((shares >= 0.03) & (shares <= 0.07)).all(), shares


def test_correlated_coins_are_seen_by_hamming_and_not_by_linear():
  joint, hamming, linear, _ = rejections(1.0, 200)
  assert joint >= 0.9 and hamming >= 0.9
  # Independent coins have the same first moments: level 0.05, three standard errors for 200.
  assert linear <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_permutations_are_counted_exactly_on_a_small_case():
  """Against recomputing the statistic of every permutation from scratch."""
  from dmmd_jax.mmd import mmd2
  from dmmd_jax.mmd.two_sample import _random_choices

  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 3, (6, 4)), rng.integers(0, 3, (9, 4)) // 2
  result = two_sample_test(x, y, Hamming(0.4, num_categories=3), 99, seed=5, block_size=4)
  pooled = np.concatenate([x, y])
  choices = _random_choices(np.random.default_rng(5), 6, 9, 99)
  values = [mmd2(pooled[c], pooled[~c], Hamming(0.4, num_categories=3)).value for c in choices.T]
  assert result.p_value == pytest.approx(np.mean(np.array(values) >= values[0] - 1e-6))
  assert result.estimates[0].value == pytest.approx(values[0], abs=1e-6)


def test_the_same_seed_gives_the_same_p_value():
  rng = np.random.default_rng(0)
  x, y = coins(rng, 50, 0.3), coins(rng, 60, 0.0)
  assert two_sample_test(x, y, HAMMING, 99, 3) == two_sample_test(x, y, HAMMING, 99, 3)
  with pytest.raises(ValueError, match="num_permutations"):
    two_sample_test(x, y, HAMMING, 0)
  with pytest.raises(ValueError, match="no kernel"):
    two_sample_test(x, y, [])


def test_several_kernels_are_standardised_and_the_largest_counts():
  """Against every statistic from scratch."""
  from dmmd_jax.mmd import mmd2
  from dmmd_jax.mmd.two_sample import _random_choices

  rng = np.random.default_rng(2)
  x, y = rng.integers(0, 3, (7, 4)), rng.integers(0, 3, (5, 4)) // 2 * 2
  kernels = [Hamming(0.4, num_categories=3), Linear(num_categories=3)]
  result = two_sample_test(x, y, kernels, 60, seed=7)
  pooled = np.concatenate([x, y])
  choices = _random_choices(np.random.default_rng(7), 7, 5, 60)
  assert choices.shape == (12, 61) and (choices.sum(0) == 7).all()
  np.testing.assert_array_equal(choices[:, 0], np.arange(12) < 7)
  values = np.array([[mmd2(pooled[c], pooled[~c], k).value for c in choices.T] for k in kernels])
  z = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
  at_least = lambda v: np.mean(v >= v[0] - 1e-4)
  assert result.p_value == at_least(z.max(0)) and result.p_values == tuple(map(at_least, z))
  assert 0.02 < result.p_value < 0.9
  np.testing.assert_allclose([e.value for e in result.estimates], values[:, 0], atol=1e-6)


def test_constant_samples_are_alike():
  x = np.zeros((5, 3), int)
  result = two_sample_test(x, x, [LINEAR, HAMMING], 9)
  assert result.p_value == 1.0 and result.p_values == (1.0, 1.0)


def test_one_permutation_is_enough():
  x = np.arange(6).reshape(3, 2)
  assert two_sample_test(x, x, num_permutations=1).p_value in (0.5, 1.0)
