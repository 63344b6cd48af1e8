"""Standard errors that hold, devices that agree, memory that does not grow, clear errors."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dmmd_jax.mmd import estimators, mmd2, mmd2_to, two_sample_test
from dmmd_jax.mmd.kernels import RBF, Hamming, Kernel, Linear, Polynomial


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


@pytest.mark.parametrize("kernel", [Hamming(num_categories=5), Hamming(0.5) + Linear(), RBF()])
def test_many_samples_against_one_are_as_each_alone(kernel):
  rng = np.random.default_rng(0)
  y = rng.integers(0, 5, (50, 3, 3))
  y[0] = 4  # the largest token
  estimate = mmd2_to(y, kernel, block_size=16)
  for n in (2, 16, 37):
    x = rng.integers(0, 4, (n, 3, 3))
    expected = mmd2(x, y, kernel.fit(y.reshape(50, 9))).value
    np.testing.assert_allclose(estimate(x), expected, atol=1e-6)


def test_what_does_not_fit_the_one_sample_is_refused():
  estimate = mmd2_to(np.zeros((4, 2), int), Hamming(num_categories=3))
  with pytest.raises(ValueError, match="a token is 3 but num_categories is 3"):
    estimate(np.full((4, 2), 3))
  with pytest.raises(ValueError, match="items of shapes"):
    estimate(np.zeros((4, 3), int))
  with pytest.raises(ValueError, match="at least 2 items"):
    mmd2_to(np.zeros((1, 2), int), Hamming())


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


def gram(x, y):
  return 0.6 ** (x[:, None] != y).sum(-1).astype(float)


def residual(values, rows, columns):
  """Mean square of a kernel less the means of its row and column, if those are independent."""
  return np.mean(values**2) - np.mean(rows**2) - np.mean(columns**2) + np.mean(values) ** 2


@pytest.mark.parametrize(
  ("n", "m", "shift", "seed", "bounded"), [(14, 9, 2, 3, False), (8, 11, 0, 5, True)]
)
def test_standard_error_is_that_of_hoeffdings_decomposition(n, m, shift, seed, bounded):
  """By whole Gram matrices; below by half of the first term, where samples are much alike."""
  rng = np.random.default_rng(seed)
  x, y = rng.integers(0, 4, (n, 5)), np.minimum(rng.integers(0, 4, (m, 5)) + shift, 3)
  off = lambda k: k[~np.eye(len(k), dtype=bool)].reshape(len(k), -1)
  xx, yy, xy = off(gram(x, x)), off(gram(y, y)), gram(x, y)
  influence_x = xx.mean(1) - xy.mean(1)
  influence_y = yy.mean(1) - xy.mean(0)
  first = 4 * influence_x.var(ddof=1) / n + 4 * influence_y.var(ddof=1) / m
  residuals = (
    residual(xx, xx.mean(1), xx.mean(1)),
    residual(yy, yy.mean(1), yy.mean(1)),
    residual(xy, xy.mean(1), xy.mean(0)),
  )
  assert min(residuals) > 0
  second = 2 * residuals[0] / n**2 + 2 * residuals[1] / m**2 + 4 * residuals[2] / (n * m)
  assert (first - second < first / 2) == bounded
  expected = np.sqrt(max(first - second, first / 2))
  for estimator in ("unbiased", "biased"):
    found = mmd2(x, y, Hamming(0.6), estimator, block_size=6)
    np.testing.assert_allclose(found.stderr, expected, rtol=1e-4)


@dataclasses.dataclass(frozen=True)
class Watched(Kernel):
  """Ones; notes the shapes of the blocks that it is asked for."""

  shapes: list = dataclasses.field(default_factory=list, hash=False, compare=False)

  def gram(self, x, y):
    self.shapes.append((x.shape, y.shape))
    return jnp.ones((len(x), len(y)))


@pytest.mark.parametrize(("size", "block"), [(54, 14), (64, 16), (65, 13), (10, 10)])
def test_memory_is_that_of_even_blocks(size, block, monkeypatch):
  kernel, lengths, sum_blocks = Watched(), [], estimators._sum_blocks
  monkeypatch.setattr(
    estimators, "_sum_blocks", lambda *args: lengths.append(len(args[3])) or sum_blocks(*args)
  )
  x, y = np.zeros((7, 3), int), np.zeros((size - 7, 3), int)
  found = mmd2(x, y, kernel, block_size=16)
  assert set(kernel.shapes) == {((block, 3), (block, 3))}
  assert lengths == [-(-size // block) * block]
  assert found == (0.0, 0.0, 1.0, 1.0, 1.0)


def test_defaults_are_those_of_published_results():
  for function in (mmd2, two_sample_test):
    defaults = {n: p.default for n, p in inspect.signature(function).parameters.items()}
    assert defaults["block_size"] == 1024
    assert defaults.get("kernel", defaults.get("kernels")) == Hamming()
  assert defaults["num_permutations"] == 1000 and defaults["seed"] == 0


def test_two_items_are_enough_and_a_sample_of_one_is_not():
  x = np.array([[0, 1], [1, 1]])
  # k = c^distance with c = 1/2: x differ in one token, x and y in 1, 2, 0, 1.
  found = mmd2(x, np.array([[1, 1], [0, 0]])[::-1], Hamming(0.5))
  np.testing.assert_allclose(found[2:], [0.5, 0.25, (0.5 + 0.25 + 0.5 + 1.0) / 4], rtol=1e-6)
  with pytest.raises(ValueError, match=r"the second sample has shape \(1, 2\)"):
    mmd2(x, x[:1])
