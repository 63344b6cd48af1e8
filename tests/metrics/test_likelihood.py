import collections

import numpy as np
import pytest

from dmmd_jax.metrics import likelihood
from dmmd_jax.metrics.ngram import KneserNey


def test_perplexity_and_its_error_by_the_delta_method():
  nll = np.random.default_rng(0).normal(1.0, 0.2, 400)
  value, stderr = likelihood.generative_perplexity(nll)
  np.testing.assert_allclose(value, np.exp(nll.mean()))
  draws = np.random.default_rng(1).choice(nll, (2000, 400)).mean(1)
  np.testing.assert_allclose(stderr, np.exp(draws).std(), rtol=0.1)


def test_entropy_of_constant_and_of_even_text():
  assert likelihood.unigram_entropy(np.zeros((3, 8), int)).value == 0.0
  even = np.tile(np.arange(4), (3, 2))
  np.testing.assert_allclose(likelihood.unigram_entropy(even).value, np.log(4))


def test_distinct_and_repeated_ngrams_are_counted():
  x = np.array([[0, 1, 0, 1, 0], [2, 3, 4, 5, 6]])
  # 01 10 01 10 | 23 34 45 56: 6 different of 8; half of the first text's come again
  assert likelihood.distinct_ngrams(x, 2) == 6 / 8
  assert likelihood.repeated_ngrams(x, 2) == (2 / 4 + 0) / 2


def kneser_ney_of_streams(rows, k):
  """`p(token | before)`, `before` of up to two tokens: Chen & Goodman 1999, in plain Python.

  The longest n-gram has raw counts. Shorter ones have continuation counts where they are backed off
  to, and raw ones where a text begins and there is no more to go by.
  """
  grams = [
    collections.Counter(tuple(row[i : i + n]) for row in rows for i in range(len(row) - n + 1))
    for n in (1, 2, 3)
  ]

  def continuations(n):
    return collections.Counter(gram[1:] for gram in grams[n])

  def interpolated(counts, before, token, lower):
    ones, twos = (sum(c == n for c in counts.values()) for n in (1, 2))
    discount = max(ones, 1) / (max(ones, 1) + 2 * twos)
    after = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == before}
    if not after:
      return lower
    total = sum(after.values())
    return (max(after.get(token, 0) - discount, 0) + discount * len(after) * lower) / total

  def probability(token, *before):
    if not before:
      return interpolated(grams[0], (), token, 1 / k)
    lowest = interpolated(continuations(1), (), token, 1 / k)
    if len(before) == 1:
      return interpolated(grams[1], before, token, lowest)
    lower = interpolated(continuations(2), before[1:], token, lowest)
    return interpolated(grams[2], before, token, lower)

  return probability


@pytest.mark.parametrize("num_rows", [1, 5])
def test_kneser_ney_is_that_of_plain_python(num_rows):
  """Raw counts where they belong and continuation counts elsewhere, none across rows."""
  rng = np.random.default_rng(num_rows)
  k = 5
  chain = rng.dirichlet(np.full(k - 1, 0.3), (k - 1, k - 1))
  rows = rng.integers(k - 1, size=(num_rows, 60 // num_rows))  # the last token never comes
  for i in range(2, rows.shape[1]):
    rows[:, i] = [rng.choice(k - 1, p=chain[row[i - 2], row[i - 1]]) for row in rows]
  model, expected = KneserNey(rows, k), kneser_ney_of_streams(rows.tolist(), k)
  if num_rows == 1:
    np.testing.assert_array_equal(KneserNey(rows[0], k).trigram, model.trigram)
  x = rng.integers(k, size=(20, 6))
  nll = -np.log([
    [expected(row[i], *row[max(i - 2, 0) : i]) for i in range(6)] for row in x.tolist()
  ])  # fmt: skip
  np.testing.assert_allclose(model.token_nll(x), nll, rtol=1e-12)
  # These would be other numbers with continuation counts.
  assert abs(model.unigram[0] - kneser_ney_of_streams(rows.tolist(), k)(0, 1)) > 1e-3


def test_kneser_ney_of_rows_of_one_token_knows_how_often_they_came():
  model = KneserNey(np.array([[0], [0], [1]]), 3)
  assert model.unigram[0] > model.unigram[1] > model.unigram[2]
  np.testing.assert_allclose(model.trigram, 1 / 3)


def test_kneser_ney_leaves_nothing_impossible_where_nothing_came_once():
  model = KneserNey(np.tile([0, 1], 50), 3)
  np.testing.assert_allclose(model.bigram.sum(-1), 1.0)
  assert min(x.min() for x in (model.unigram, model.bigram, model.trigram)) > 0


def test_kneser_ney_by_hand_and_normalised():
  # abaabc: bigrams ab ba aa ab bc; trigrams aba baa aab abc, each once
  model = KneserNey(np.array([0, 1, 0, 0, 1, 2]), 4)
  for table in (model.unigram, model.bigram, model.trigram):
    np.testing.assert_allclose(table.sum(-1), 1.0)
    assert (table > 0).all()  # also for the token that never came
  # a, b and c came 3, 2 and 1 times and lose 1/3 each, spread evenly.
  np.testing.assert_allclose(model.unigram, (np.array([8, 5, 2, 0]) / 3 + 1 / 4) / 6)
  # ab twice and aa once lose 3/5 each, spread as different contexts are: 2, 1, 1, which lose 1/2.
  after_any = (np.array([1.5, 0.5, 0.5, 0]) + 1.5 / 4) / 4
  np.testing.assert_allclose(model.bigram[0], (np.array([0.4, 1.4, 0, 0]) + 1.2 * after_any) / 3)
  # All counts of trigrams are 1: the discount is 1. So are those of the contexts of pairs.
  np.testing.assert_allclose(model.trigram[0, 1], after_any)


def test_kneser_ney_beats_additive_smoothing_on_a_chain():
  rng = np.random.default_rng(0)
  chain = rng.dirichlet(np.full(12, 0.1), (12, 12))
  x = [0, 1]
  for _ in range(6000):
    x.append(rng.choice(12, p=chain[x[-2], x[-1]]))
  train, test = np.array(x[:3000]), np.array(x[3000:]).reshape(1, -1)
  nll = KneserNey(train, 12).token_nll(test)[0, 2:].mean()
  counts = np.ones((12, 12, 12))
  np.add.at(counts, (train[:-2], train[1:-1], train[2:]), 1)
  additive = counts / counts.sum(-1, keepdims=True)
  assert nll < -np.log(additive[test[0, :-2], test[0, 1:-1], test[0, 2:]]).mean()


def test_errors_are_those_of_means_and_one_sample_has_none():
  tokens = np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]])
  entropies = np.log([1, 2, 4])
  value, stderr = likelihood.unigram_entropy(tokens)
  np.testing.assert_allclose([value, stderr], [entropies.mean(), entropies.std(ddof=1) / 3**0.5])
  assert likelihood.unigram_entropy(tokens[1:2]) == (pytest.approx(np.log(2)), None)
  nll = np.array([1.0, 2.0])
  value, stderr = likelihood.generative_perplexity(nll)
  np.testing.assert_allclose([value, stderr], np.exp(1.5) * np.array([1, 0.5]))
  assert likelihood.generative_perplexity(nll[:1]) == (pytest.approx(np.e), None)


def test_ngrams_of_other_lengths():
  x = np.array([[0, 1, 0, 1, 0, 1], [0, 1, 0, 2, 2, 2]])
  # 0101 1010 0101 | 0102 1022 0222
  assert likelihood.distinct_ngrams(x, 4) == 5 / 6
  np.testing.assert_allclose(likelihood.repeated_ngrams(x, 4), (1 / 3 + 0) / 2)
  assert likelihood.distinct_ngrams(x, 1) == 3 / 12
  np.testing.assert_allclose(likelihood.repeated_ngrams(x, 1), (4 / 6 + 3 / 6) / 2)
