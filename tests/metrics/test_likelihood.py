import numpy as np

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


def test_kneser_ney_by_hand_and_normalised():
  # abaabc: bigrams ab ba aa ab bc; trigrams aba baa aab abc, each once
  model = KneserNey(np.array([0, 1, 0, 0, 1, 2]), 4)
  for table in (model.unigram, model.bigram, model.trigram):
    np.testing.assert_allclose(table.sum(-1), 1.0)
    assert (table > 0).all()  # also for the token that never came
  # All counts of trigrams are 1: the discount is 1 and the bigram model decides.
  np.testing.assert_allclose(model.trigram[0, 1], model.bigram[1])


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
