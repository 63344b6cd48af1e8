"""Kernels against double loops in float64, closed forms against enumeration, eigenvalues."""

import functools
import itertools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.mmd import mmd2
from dmmd_jax.mmd.kernels import RBF, Hamming, Linear, NGram, Polynomial

K = 5


def tokens(seed, n, length=7):
  return np.random.default_rng(seed).integers(0, K, (n, length))


def features(seed, n, size=6):
  return np.random.default_rng(seed).normal(1.0, 2.0, (n, size))


def bigrams(x):
  counts = np.zeros(K * K)
  for a, b in itertools.pairwise(x):
    counts[a * K + b] += 1
  return counts / np.linalg.norm(counts)


def distance2(x, y):
  return float(np.square(x - y).sum())


TOKEN_KERNELS = {
  "linear": (Linear(), lambda x, y: float((x == y).mean())),
  "hamming": (Hamming(0.6), lambda x, y: 0.6 ** float((x != y).sum())),
  "hamming default": (Hamming(), lambda x, y: np.exp(-1.0) ** float((x != y).sum())),
  "ngram": (NGram(2), lambda x, y: float(bigrams(x) @ bigrams(y))),
  "sum": (
    Hamming(0.9) + Linear(),
    lambda x, y: 0.9 ** float((x != y).sum()) + float((x == y).mean()),
  ),
  "product": (
    Linear() * NGram(2),
    lambda x, y: float((x == y).mean()) * float(bigrams(x) @ bigrams(y)),
  ),
}
FEATURE_KERNELS = {
  "rbf": (
    RBF((1.0, 3.0)),
    lambda x, y: np.exp(-distance2(x, y) / 2) + np.exp(-distance2(x, y) / 18),
  ),
  "polynomial": (Polynomial(), lambda x, y: (float(x @ y) / len(x) + 1.0) ** 3),
}
CASES = {name: (tokens, *case) for name, case in TOKEN_KERNELS.items()} | {
  name: (features, *case) for name, case in FEATURE_KERNELS.items()
}


def double_loop(function, x, y):
  return np.array([[function(a, b) for b in y] for a in x])


@functools.partial(jax.jit, static_argnums=0)
def gram_of(kernel, x, y):
  """One program; step by step there would be a small one for every step."""
  return kernel.gram(x, y)


@pytest.mark.parametrize("name", CASES)
def test_gram_equals_a_double_loop(name):
  draw, kernel, function = CASES[name]
  x, y = draw(0, 9), draw(1, 11)
  gram = gram_of(kernel.fit(np.concatenate([x, y])), x, y)
  assert gram.dtype == jnp.float32
  np.testing.assert_allclose(gram, double_loop(function, x, y), rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_estimates_equal_a_double_loop(name):
  """Unequal sizes, many blocks, and a last block that is not full."""
  draw, kernel, function = CASES[name]
  x, y = draw(0, 23), draw(1, 31)
  xx, yy, xy = (double_loop(function, a, b) for a, b in ((x, x), (y, y), (x, y)))
  n, m = len(x), len(y)
  unbiased = (xx.sum() - np.trace(xx)) / (n * (n - 1)), (yy.sum() - np.trace(yy)) / (m * (m - 1))
  biased = xx.mean(), yy.mean()
  for estimator, within in (("unbiased", unbiased), ("biased", biased)):
    result = mmd2(x, y, kernel, estimator, block_size=8)
    expected = (*within, xy.mean())
    np.testing.assert_allclose(result[2:], expected, rtol=1e-6)
    value = within[0] + within[1] - 2 * xy.mean()
    assert abs(result.value - value) < 1e-6 * max(expected)


@pytest.mark.parametrize("length", [1, 3, 15, 16, 127, 128, 4095, 5000])
def test_agreements_are_counted_exactly_at_any_length(length):
  """Rows that share a product never spill into each other, even where all tokens agree."""
  x = np.random.default_rng(0).integers(0, 3, (7, length))
  y = np.concatenate([x[::-1], np.random.default_rng(1).integers(0, 3, (4, length))])
  gram = gram_of(Linear(num_categories=3), x, y)
  counts = (x[:, None] == y).sum(-1)
  np.testing.assert_array_equal(np.rint(np.asarray(gram) * length), counts)
  assert counts.max() == length


def simplex(seed, *shape):
  return np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1])


def test_closed_forms_are_expectations_over_samples():
  p, q = simplex(0, 2, 3, 4), simplex(1, 3, 3, 4)
  y = np.random.default_rng(2).integers(0, 4, (3, 3))
  every = np.array(list(itertools.product(range(4), repeat=3)))
  weights = [np.prod([v[:, d, every[:, d]] for d in range(3)], 0) for v in (p, q)]
  for kernel in (Hamming(0.3, num_categories=4), Linear(num_categories=4)):
    gram = functools.partial(gram_of, kernel)
    both = weights[0] @ np.asarray(gram(every, every), np.float64) @ weights[1].T
    np.testing.assert_allclose(gram(p, q), both, rtol=1e-6)
    one = weights[0] @ np.asarray(gram(every, y), np.float64)
    np.testing.assert_allclose(gram(p, y), one, rtol=1e-6)
    np.testing.assert_allclose(gram(y, p), one.T, rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_gram_matrices_are_positive_semidefinite(name):
  """Of every type that data have, and of few and many items and tokens."""
  draw, kernel, _ = CASES[name]
  types = ("int32", "uint8") if draw is tokens else ("float32", "float64", "float16")
  for dtype, size in zip(types, ((57, 5), (9, 17), (30, 2)), strict=False):
    x = draw(2, *size).astype(dtype)
    gram = np.asarray(gram_of(kernel.fit(x), x, x), np.float64)
    scale = np.abs(gram).max()
    assert np.linalg.eigvalsh((gram + gram.T) / 2).min() >= -1e-6 * max(1.0, scale)


def test_hashed_ngrams_nearly_keep_the_cosine_and_tell_order():
  x = np.random.default_rng(0).integers(0, 1000, (6, 40))
  exact = gram_of(NGram(2, num_buckets=10**6, num_categories=1000), x, x)
  hashed = gram_of(NGram(2, num_buckets=4096, num_categories=1000), x, x)
  np.testing.assert_allclose(hashed, exact, atol=0.1)
  shifted, reversed_ = np.roll(x, 1, 1), x[:, ::-1]
  kernel = NGram(2, num_categories=1000)
  assert np.diag(gram_of(kernel, x, shifted)).min() > 0.9
  assert np.diag(gram_of(kernel, x, reversed_)).max() < 0.2


def test_median_heuristic_follows_the_scale_of_the_data():
  x = features(0, 500)
  bandwidths = np.array(RBF().fit(x).bandwidths)
  pairs = np.linalg.norm(x[:, None] - x, axis=-1)[np.triu_indices(len(x), 1)]
  np.testing.assert_allclose(bandwidths, np.median(pairs) * np.array([0.5, 1, 2]), rtol=1e-6)
  for scale in (0.01, 10):
    np.testing.assert_allclose(RBF().fit(scale * x).bandwidths, scale * bandwidths, rtol=1e-5)


def test_what_a_kernel_cannot_know_is_an_error():
  x = tokens(0, 3)
  with pytest.raises(ValueError, match="num_categories"):
    Linear().gram(x, x)
  with pytest.raises(ValueError, match="token is 4 but num_categories is 3"):
    mmd2(np.full((4, 2), 4), np.zeros((4, 2), int), Hamming(num_categories=3))
  with pytest.raises(ValueError, match="bandwidths"):
    RBF().gram(x, x)
  with pytest.raises(ValueError, match=r"\(0, 1\)"):
    Hamming(1.0)
  with pytest.raises(ValueError, match="no 3-grams"):
    NGram(3, num_categories=5).gram(x[:, :2], x[:, :2])


def test_polynomial_kernel_is_that_of_torchmetrics():
  """Golden values by `make_golden_kid.py`, with torchmetrics' KernelInceptionDistance."""
  golden = json.loads((pathlib.Path(__file__).parent / "golden_kid.json").read_text())
  rng = np.random.default_rng(golden["seed"])
  x, y = (rng.normal(shift, 1.0, golden["shape"]).astype(np.float32) for shift in (0.0, 0.2))
  np.testing.assert_allclose(mmd2(x, y, Polynomial()).value, golden["kid"], rtol=1e-5)


def test_defaults_of_kernels():
  assert NGram() == NGram(2, 4096) and Polynomial() == Polynomial(3, None, 1.0)
  x, y = tokens(0, 4, length=20), tokens(1, 4, length=20)
  distances = (x[:, None] != y).sum(-1)
  # A bandwidth of an eighth of the tokens, at least one.
  gram = gram_of(Hamming(num_categories=K), x, y)
  np.testing.assert_allclose(gram, np.exp(-distances / 2.5), rtol=1e-5)
  np.testing.assert_allclose(gram_of(Hamming(), np.eye(K)[x], np.eye(K)[y]), gram, rtol=1e-4)


def test_polynomial_of_another_degree_scale_and_offset():
  x, y = features(0, 4), features(1, 5)
  gram = gram_of(Polynomial(2, 0.5, -1.0), x, y)
  np.testing.assert_allclose(gram, (0.5 * x @ y.T - 1.0) ** 2, rtol=1e-4)


def test_hashes_are_those_of_plain_integers():
  """On every machine: sums wrap at 32 bits."""
  x = np.random.default_rng(0).integers(0, 50_000, (5, 12))

  def counts(row, n, num_buckets=11):
    found = np.zeros(num_buckets)
    for i in range(len(row) - n + 1):
      code = 0
      for token in row[i : i + n].tolist():
        code = (code * 2654435761 + token) % 2**32
        code ^= code >> 15
      found[(code * 2246822519 % 2**32 >> 7) % num_buckets] += 1
    return found / np.linalg.norm(found)

  for n in (1, 2, 3):
    expected = np.array([counts(row, n) for row in x])
    gram = gram_of(NGram(n, 11, num_categories=50_000), x, x)
    np.testing.assert_allclose(gram, expected @ expected.T, rtol=1e-5)


@pytest.mark.parametrize("num_buckets", [25, 24])
def test_ngrams_are_hashed_where_there_are_more_than_buckets(num_buckets):
  x = tokens(3, 6, length=30)
  exact = np.array([[bigrams(a) @ bigrams(b) for b in x] for a in x])
  gram = gram_of(NGram(2, num_buckets, num_categories=K), x, x)
  assert np.allclose(gram, exact, atol=1e-5) == (num_buckets == 25)


def test_the_median_is_of_a_thousand_rows_spread_over_the_sample():
  x = features(4, 2500, size=2)
  x[::3] *= 10.0
  some = x[::3]
  pairs = np.linalg.norm(some[:, None] - some, axis=-1)[np.triu_indices(len(some), 1)]
  np.testing.assert_allclose(RBF().fit(x).bandwidths[1], np.median(pairs), rtol=1e-6)
  alike = np.ones((5, 2))
  assert RBF().fit(alike).bandwidths == (0.5, 1.0, 2.0)
  assert RBF((3.0,)).fit(x) == RBF((3.0,))


def test_distances_far_from_the_origin_do_not_cancel():
  x = features(0, 6)
  near, far = (gram_of(RBF((2.0,)), v, v[:4]) for v in (x, x + 4096.0))
  np.testing.assert_allclose(far, near, atol=5e-3)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Hamming(0.0), "c of the Hamming kernel is 0.0"),
    (lambda: Hamming(1.5), "c of the Hamming kernel is 1.5"),
    (lambda: RBF((1.0, 0.0)), r"bandwidths of the RBF kernel are \(1.0, 0.0\)"),
    (lambda: RBF((-1.0,)), r"bandwidths of the RBF kernel are \(-1.0,\)"),
    (lambda: Linear(num_categories=4).fit(np.array([[4]])), "token is 4 but num_categories is 4"),
  ],
)
def test_values_that_are_no_kernel(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_what_a_sum_or_product_takes():
  both = RBF() + Hamming()
  assert both.takes_tokens and not (RBF() * Polynomial()).takes_tokens
  x = np.array([[0, 3], [1, 2], [1, 1]])
  fitted = both.fit(x)
  assert fitted.kernels[1].num_categories == 4 and len(fitted.kernels[0].bandwidths) == 3
  assert Linear(num_categories=4).fit(x).num_categories == 4
