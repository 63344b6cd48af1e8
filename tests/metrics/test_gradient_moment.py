"""Gradient Moment: against explicit gradients in float64, and what it must and must not notice."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.metrics.gradient_moment import gradient_moment

K, D = 6, 12
RNG = np.random.default_rng(0)
CHAIN = RNG.dirichlet(np.full(K, 0.4), K)  # a text is a Markov chain over K tokens
CHAIN /= CHAIN.sum(-1, keepdims=True)


def texts(num, seed, chain=CHAIN):
  rng = np.random.default_rng(seed)
  x = np.zeros((num, D), np.int32)
  x[:, 0] = rng.integers(K, size=num)
  for d in range(1, D):
    u = rng.random((num, 1))
    x[:, d] = np.minimum((u > chain[x[:, d - 1]].cumsum(-1)).sum(-1), K - 1)
  return x


def loss(params, x):
  """Nats per token of a model of pairs of tokens."""
  log_p = jax.nn.log_softmax(params["pairs"] + params["tokens"])
  return -log_p[x[:, :-1], x[:, 1:]].mean()


PARAMS = {"pairs": jnp.log(jnp.asarray(CHAIN, jnp.float32) + 1e-3), "tokens": jnp.zeros(K)}


def float64_gradient(x):
  """The mean over examples of explicit gradients of `loss`, flat."""
  logits = np.asarray(PARAMS["pairs"], np.float64) + np.asarray(PARAMS["tokens"], np.float64)
  p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  total = np.zeros(K * K + K)
  for row in x:
    pairs = np.zeros((K, K))
    for before, after in itertools.pairwise(row):
      pairs[before] += p[before]
      pairs[before, after] -= 1.0
    total += np.concatenate([pairs.ravel(), pairs.sum(0)]) / (D - 1)
  return total / len(x)


@pytest.mark.parametrize("centred", [True, False])
def test_equals_explicit_gradients_in_float64(centred):
  samples, data = texts(40, 1, CHAIN[::-1]), texts(44, 2)
  estimate = gradient_moment(loss, PARAMS, samples, data if centred else None, batch_size=5)
  expected = []
  for i in range(0, 40, 10):
    gaps = []
    for rows in (slice(i, i + 5), slice(i + 5, i + 10)):
      gap = float64_gradient(samples[rows])
      gaps.append(gap - float64_gradient(data[rows]) if centred else gap)
    expected.append(gaps[0] @ gaps[1])
  np.testing.assert_allclose(estimate.value, np.mean(expected), rtol=1e-5, atol=1e-8)
  np.testing.assert_allclose(estimate.stderr, np.std(expected, ddof=1) / 2, rtol=1e-4)


def test_real_text_against_real_text_is_zero_within_two_standard_errors():
  estimate = gradient_moment(loss, PARAMS, texts(3200, 3), texts(3200, 4), batch_size=50)
  assert abs(estimate.value) < 2 * estimate.stderr


def shuffled():
  return np.random.default_rng(7).permuted(texts(3200, 5), axis=1)


def repeated():
  return np.tile(texts(1, 6), (3200, 1))


def low_temperature():
  sharp = CHAIN**2
  return texts(3200, 5, sharp / sharp.sum(-1, keepdims=True))


@pytest.mark.parametrize("bad", [shuffled, repeated, low_temperature])
def test_bad_text_is_clearly_above_zero(bad):
  estimate = gradient_moment(loss, PARAMS, bad(), texts(3200, 4), batch_size=50)
  assert estimate.value > 10 * estimate.stderr > 0


def test_low_temperature_has_a_lower_loss_and_a_higher_moment():
  """What perplexity cannot see."""
  assert loss(PARAMS, low_temperature()) < loss(PARAMS, texts(3200, 4))


def test_is_unbiased_over_200_draws():
  chain = 0.5 * CHAIN + 0.5 / K
  # The truth: a gap between two means over so many texts that their own error does not count.
  gap = float64_gradient(texts(20000, 8, chain)) - float64_gradient(texts(20000, 9))
  values = [
    gradient_moment(loss, PARAMS, texts(16, 100 + i, chain), texts(16, 900 + i), 8).value
    for i in range(200)
  ]
  assert abs(np.mean(values) - gap @ gap) < 3 * np.std(values) / np.sqrt(200)
  assert gap @ gap > 3 * np.std(values) / np.sqrt(200)  # so that the line above says something


def test_too_few_samples_are_an_error():
  with pytest.raises(ValueError, match="make no pair of minibatches of 9"):
    gradient_moment(loss, PARAMS, texts(17, 0), texts(40, 1), batch_size=9)


def test_one_pair_is_enough_and_has_no_error():
  x, y = texts(19, 0), texts(18, 1)
  value, stderr = gradient_moment(loss, PARAMS, x, y, batch_size=9)
  gaps = [float64_gradient(x[i : i + 9]) - float64_gradient(y[i : i + 9]) for i in (0, 9)]
  np.testing.assert_allclose(value, gaps[0] @ gaps[1], rtol=1e-4)
  assert stderr is None
  with pytest.raises(ValueError, match="18 samples and 17 data make no pair of minibatches of 9"):
    gradient_moment(loss, PARAMS, y, x[:17], batch_size=9)
  with pytest.raises(ValueError, match="17 samples and no data make no pair"):
    gradient_moment(loss, PARAMS, x[:17], None, batch_size=9)


def test_pairs_are_as_many_as_the_fewer_examples_make():
  x, y = texts(100, 0), texts(25, 1)
  found = gradient_moment(loss, PARAMS, x, y, batch_size=5)
  assert found == gradient_moment(loss, PARAMS, x[:20], y[:20], batch_size=5)
  assert found == gradient_moment(loss, PARAMS, x[:25], y, batch_size=5)
