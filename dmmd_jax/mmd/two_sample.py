"""Permutation tests of whether two samples come from one distribution."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from dmmd_jax.mmd.estimators import MMD2, check_samples, estimate, gram_sums
from dmmd_jax.mmd.kernels import Hamming, Kernel


class TestResult(NamedTuple):
  """`p_value` of the joint test; per kernel an estimate of MMD^2 and its own `p_values`."""

  __test__ = False  # not a test of pytest's

  p_value: float
  p_values: tuple[float, ...]
  estimates: tuple[MMD2, ...]


def two_sample_test(
  x: np.ndarray,
  y: np.ndarray,
  kernels: Kernel | Sequence[Kernel] = Hamming(),  # noqa: B008 (a frozen value)
  num_permutations: int = 1000,
  seed: int = 0,
  mesh: Mesh | None = None,
  block_size: int = 1024,
) -> TestResult:
  """Tests whether `x` `[n, ...]` and `y` `[m, ...]` are samples of one distribution.

  The statistic is the unbiased MMD^2; its law under the null is that over random divisions of the
  pooled sample. Several kernels are tested jointly by the largest of their statistics, each
  standardised by its own permutations: rejecting at `p_value <= level` is wrong with probability
  at most `level`. One pass over the Gram matrix serves all permutations. Raises `ValueError` as
  `mmd2`, and for fewer than 1 permutation.
  """
  if num_permutations < 1:
    raise ValueError(f"num_permutations is {num_permutations}; expected at least 1")
  kernels = (kernels,) if isinstance(kernels, Kernel) else tuple(kernels)
  if not kernels:
    raise ValueError("no kernel to test with; name at least one")
  rng = np.random.default_rng(seed)
  statistics, estimates = [], []
  choices = None
  for kernel in kernels:
    flat_x, flat_y = check_samples(x, y, kernel)
    if choices is None:
      choices = _random_choices(rng, len(flat_x), len(flat_y), num_permutations)
    pooled = np.concatenate([flat_x, flat_y])
    sums = gram_sums(pooled, len(flat_x), kernel, choices, mesh, block_size)
    estimates.append(estimate(sums, len(flat_x)))
    statistics.append(_permuted_mmd2(sums, choices))
  statistics = np.stack(statistics)
  spread = statistics.std(1, keepdims=True)
  standardised = (statistics - statistics.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1)
  return TestResult(
    _p_value(standardised.max(0)), tuple(map(_p_value, standardised)), tuple(estimates)
  )


def _random_choices(rng, n: int, m: int, num_permutations: int) -> np.ndarray:
  """Bool `[n + m, 1 + P]`: which items play x; the first column is the division as observed."""
  observed = np.arange(n + m) < n
  columns = [observed] + [rng.permutation(observed) for _ in range(num_permutations)]
  return np.stack(columns, 1)


def _permuted_mmd2(sums, choices: np.ndarray) -> np.ndarray:
  """The unbiased MMD^2 of every division, float64 `[1 + P]`."""
  row_sums, total = sums.rows.sum(1), sums.rows.sum()
  n = choices[:, 0].sum()
  m = len(choices) - n
  within_x = sums.quadratic
  between = row_sums @ choices - within_x
  within_y = total - within_x - 2.0 * between
  return within_x / (n * (n - 1)) + within_y / (m * (m - 1)) - 2.0 * between / (n * m)


def _p_value(statistics: np.ndarray) -> float:
  """Share of divisions, the observed one at index 0 among them, that are at least as extreme."""
  # Equal statistics of discrete data differ by rounding.
  return float((statistics >= statistics[0] - 1e-4).mean())
