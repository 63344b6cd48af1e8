"""Standard errors that hold, devices that agree, memory that does not grow, clear errors."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from dmmd_jax.mmd import mmd2
from dmmd_jax.mmd.kernels import Hamming, Linear, Polynomial


def coins(rng, n, correlation):
  first = rng.integers(0, 2, n)
  second = np.where(rng.random(n) < correlation, first, rng.integers(0, 2, n))
  return np.stack([first, second], 1)


@pytest.mark.parametrize("correlation", [0.0, 0.2, 1.0])
def test_unbiased_with_a_standard_error_that_is_the_spread_of_estimates(correlation):
  """Equal distributions too, where the first-order term of the variance vanishes."""
  rng = np.random.default_rng(0)
  c = 0.5
  results = [
    mmd2(coins(rng, 60, correlation), coins(rng, 90, 0.0), Hamming(c, num_categories=2))
    for _ in range(400)
  ]
  values, stderrs = (np.array([getattr(r, name) for r in results]) for name in ("value", "stderr"))
  # The law of a pair differs from a uniform one by +-correlation/4.
  difference = correlation / 4 * np.array([1, -1, -1, 1])
  same = np.array([[1, 0], [0, 1]]) * (1 - c) + c
  expected = difference @ np.kron(same, same) @ difference
  assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(len(values))
  ratio = np.sqrt(np.mean(stderrs**2)) / values.std()
  assert 0.85 < ratio < 1.2, ratio


def test_one_and_eight_devices_agree():
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 5, (130, 9)), rng.integers(0, 4, (77, 9))
  one = mmd2(x, y, block_size=16)
  for shape, names in (((8,), ("data",)), ((2, 4), ("data", "fsdp"))):
    mesh = Mesh(np.array(jax.devices()).reshape(shape), names)
    np.testing.assert_allclose(mmd2(x, y, mesh=mesh, block_size=16), one, atol=1e-6)


def test_the_biased_estimate_of_a_sample_with_itself_is_zero():
  x = np.random.default_rng(0).integers(0, 5, (50, 9))
  assert abs(mmd2(x, x, estimator="biased").value) < 1e-6


def test_images_are_flattened():
  rng = np.random.default_rng(0)
  x, y = rng.integers(0, 5, (2, 20, 3, 3, 1))
  assert mmd2(x, y) == mmd2(x.reshape(20, 9), y.reshape(20, 9))


@pytest.mark.parametrize(
  ("x", "y", "kernel", "message"),
  [
    (np.zeros((5, 2), int), np.zeros((5, 3), int), Linear(), "shapes"),
    (np.zeros((1, 2), int), np.zeros((5, 2), int), Linear(), "at least 2"),
    (np.zeros(5, int), np.zeros(5, int), Linear(), "shape"),
    (np.zeros((5, 2)), np.zeros((5, 2)), Linear(), "integer tokens"),
    (np.full((5, 2), -1), np.zeros((5, 2), int), Hamming(), "below 0"),
    (np.full((5, 2), np.nan), np.zeros((5, 2)), Polynomial(), "not finite"),
    (np.full((5, 2), "a"), np.zeros((5, 2)), Polynomial(), "dtype"),
  ],
)
def test_what_are_not_two_samples_of_one_kind_is_an_error(x, y, kernel, message):
  with pytest.raises(ValueError, match=message):
    mmd2(x, y, kernel)
  with pytest.raises(ValueError, match="estimator"):
    mmd2(x, y, kernel, "umbiased")
