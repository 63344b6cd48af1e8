"""Which measures a data set gets, and that each is the one that it says."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data import hmm, toy
from dmmd_jax.data.pipeline import Dataset, random_rows
from dmmd_jax.metrics import likelihood, suites
from dmmd_jax.metrics.classifier import Classifier
from dmmd_jax.metrics.frechet import frechet_distance
from dmmd_jax.metrics.gradient_moment import gradient_moment
from dmmd_jax.mmd import mmd2
from dmmd_jax.mmd.kernels import Hamming, NGram

K, D, HALF = 5, 6, 4


class LanguageModel:
  """Tokens one by one, by parameters whose gradient is easy."""

  @staticmethod
  def gradient_moment(samples, data, batch_size):
    loss = lambda params, x: -jax.nn.log_softmax(params)[x].mean()
    return gradient_moment(loss, jnp.zeros(K), samples, data, batch_size)

  @staticmethod
  def nll(tokens, batch_size):
    assert batch_size == HALF
    return tokens.mean(-1) / 10


def texts(seed, num):
  return np.random.default_rng(seed).integers(K, size=(num, D)).astype(np.uint16)


def text_dataset(num_held_out=20):
  return Dataset(texts(0, 30), texts(1, num_held_out), K, tokenizer=object())


def gradient(x):
  """Of the loss of `LanguageModel`: uniform probabilities less frequencies."""
  return 1 / K - np.bincount(x.reshape(-1), minlength=K) / x.size


@pytest.mark.parametrize(("batch", "first"), [(0, 0), (1, 8), (2, 16 % 13), (5, 40 % 13)])
def test_text_is_measured_by_two_minibatches_of_data_of_its_own_each(batch, first):
  dataset, tokens = text_dataset(), texts(2, 9)
  found = suites.make_measures(dataset, LanguageModel).of_batch(tokens, batch)
  data = dataset.held_out[first : first + 8]
  gaps = [gradient(tokens[i : i + 4]) - gradient(data[i : i + 4]) for i in (0, 4)]
  np.testing.assert_allclose(found["gradient_moment"], gaps[0] @ gaps[1], rtol=1e-4, atol=1e-7)
  assert found["perplexity"] == np.exp((tokens.mean(-1) / 10).mean())
  assert found["unigram_entropy"] == likelihood.unigram_entropy(tokens).value
  assert found["distinct_4"] == likelihood.distinct_ngrams(tokens, 4)
  assert found["repeated_4"] == likelihood.repeated_ngrams(tokens, 4)
  expected = mmd2(tokens, dataset.held_out, NGram(num_categories=K)).value
  np.testing.assert_allclose(found["kernel_mmd"], expected, atol=1e-6)
  assert len(found) == 6


def test_images_are_measured_in_features_of_a_classifier(monkeypatch):
  rng = np.random.default_rng(0)
  labels = np.concatenate([np.sort(rng.integers(3, size=50)), rng.integers(3, size=40)])
  images = (2 * labels[:, None] + rng.integers(2, size=(90, 8))).astype(np.int32)
  dataset = Dataset(images[:50], images[50:], 6, labels[:50], labels[50:])
  trained = []

  def train(tokens, labels, num_categories):
    trained.append((tokens, labels, num_categories))

    def predict(tokens):
      return jnp.asarray(tokens[:, :4], jnp.float32), jnp.eye(3)[tokens[:, 0] // 2]

    return Classifier(predict, 3)

  monkeypatch.setattr(suites, "train_classifier", train)
  monkeypatch.setattr(suites, "CLASSIFIED", 30)
  monkeypatch.setattr(suites, "COMPARED", 25)
  measures = suites.make_measures(dataset, fid=lambda tokens: len(tokens) / 2)
  ((tokens, classes, num_categories),) = trained
  assert tokens.shape == (30, 8) and num_categories == 6
  np.testing.assert_array_equal(tokens, random_rows(dataset.train, 30))
  np.testing.assert_array_equal(tokens[:, 0] // 2, classes)
  samples = images[:20]
  found = measures.of_batch(samples, 0)
  held_out = random_rows(dataset.held_out[:, :4], 20)
  np.testing.assert_allclose(found["frechet"], frechet_distance(samples[:, :4], held_out))
  shares = [np.bincount(y, minlength=3) / len(y) for y in (labels[:20], labels[50:])]
  np.testing.assert_allclose(found["class_tv"], np.abs(shares[0] - shares[1]).sum() / 2)
  compared = random_rows(dataset.held_out, 25)
  expected = mmd2(samples, compared, Hamming(num_categories=6)).value
  np.testing.assert_allclose(found["kernel_mmd"], expected, atol=1e-6)
  assert found.keys() == {"frechet", "class_tv", "kernel_mmd"}
  assert measures.of_all(samples) == {"fid": 10.0}


def test_without_labels_text_or_a_joint_there_is_the_kernel():
  tokens = texts(0, 20)
  plain = Dataset(tokens, tokens, K)
  measures = suites.make_measures(plain)
  assert measures.of_batch(tokens, 0).keys() == {"kernel_mmd"} and measures.of_all(tokens) == {}
  joint = toy.mixture(D, K, 3, peak=0.9)
  known = suites.make_measures(dataclasses.replace(plain, joint=joint))
  assert known.of_batch(tokens, 0).keys() == {"kernel_mmd", "nll", "impossible", "component_tv"}


def test_metrics_of_a_known_joint_by_hand():
  """Two components of two tokens; the posterior of each sample by Bayes' rule."""
  weights = np.array([0.25, 0.75])
  probs = np.array([[[0.8, 0.2], [0.5, 0.5]], [[0.4, 0.6], [1.0, 0.0]]])
  x = np.array([[0, 0], [1, 0], [0, 1]])
  joint = np.array([
    [0.25 * 0.8 * 0.5, 0.75 * 0.4], [0.25 * 0.2 * 0.5, 0.75 * 0.6], [0.25 * 0.8 * 0.5, 0.0]
  ])  # fmt: skip
  found = suites.joint_metrics(toy.Mixture(weights, probs), x)
  np.testing.assert_allclose(found["nll"], -np.log(joint.sum(1)).mean() / 2)
  posterior = (joint / joint.sum(1, keepdims=True)).mean(0)
  np.testing.assert_allclose(found["component_tv"], abs(posterior[0] - 0.25))
  assert found["impossible"] == 0.0


def test_histograms_and_their_distance():
  np.testing.assert_array_equal(suites.histogram(np.array([0, 2, 2, 0, 0]), 4), [0.6, 0, 0.4, 0])
  assert suites.total_variation(np.array([0.5, 0.5]), np.array([0.25, 0.75])) == 0.25


def test_limits_on_examples():
  """Every change of one of these changes published figures."""
  assert (suites.COMPARED, suites.CLASSIFIED) == (10_000, 20_000)


def test_a_hidden_markov_model_measures_likelihoods_and_pairs_at_all_distances():
  joint = hmm.draw_model(10, 5, 3)
  tokens = np.array([[0, 1, 2, 3, 4] * 2, [4] * 10])
  found = suites.markov_metrics(joint, tokens)
  np.testing.assert_allclose(found["nll"], -joint.log_prob(tokens).mean() / 10)
  errors = []
  for distance in (1, 2, 4, 8):
    seen = np.zeros((5, 5))
    for row in tokens:
      for i in range(10 - distance):
        seen[row[i], row[i + distance]] += 1
    errors.append(0.5 * np.abs(seen / seen.sum() - joint.pairs(distance)).sum())
  np.testing.assert_allclose(found["pair_tv"], np.mean(errors))
  expected = sum(_pair_mmd2(joint, tokens, distance) for distance in range(1, 10))
  expected /= sum((joint.pairs(distance) ** 2).sum() for distance in range(1, 10))
  np.testing.assert_allclose(found["pair_mmd"], expected)
  # Many samples are near the truth, and shuffled ones, whose single tokens are right, are not.
  many = joint.sample(5000, seed=0)
  shuffled = np.random.default_rng(0).permuted(many, axis=0)
  good, bad = (suites.markov_metrics(joint, x) for x in (many, shuffled))
  assert good["pair_tv"] < 0.02 < 5 * good["pair_tv"] < bad["pair_tv"]
  assert good["nll"] < bad["nll"] - 0.1
  # Without a floor: a few of the data have none of it, whatever the distance.
  few = [suites.markov_metrics(joint, many[i : i + 5])["pair_mmd"] for i in range(0, 5000, 5)]
  mean, error = np.mean(few), np.std(few) / np.sqrt(len(few))
  assert abs(mean) < 3 * error < bad["pair_mmd"] / 5


def _pair_mmd2(joint, tokens, distance):
  """Every pair of two samples beside every other, and beside each that may be."""
  pairs = [list(zip(row, row[distance:], strict=False)) for row in tokens]
  among = np.mean([a == b for x, y in itertools.permutations(pairs, 2) for a in x for b in y])
  truth = joint.pairs(distance)
  beside = np.mean([truth[pair] for row in pairs for pair in row])
  return among - 2 * beside + (truth**2).sum()
