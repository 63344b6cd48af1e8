"""What is measured on samples of a kind of data set."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from dmmd_jax.data.hmm import HiddenMarkov
from dmmd_jax.data.pipeline import Dataset, random_rows
from dmmd_jax.metrics.classifier import train_classifier
from dmmd_jax.metrics.frechet import frechet_distance
from dmmd_jax.metrics.likelihood import (
  distinct_ngrams,
  generative_perplexity,
  repeated_ngrams,
  unigram_entropy,
)
from dmmd_jax.mmd import mmd2_to
from dmmd_jax.mmd.kernels import Hamming, NGram

# Held-out examples that samples are compared with by a kernel, of all pairs.
COMPARED = 10_000

# Training examples of the classifier in whose features images are compared.
CLASSIFIED = 20_000

# Of tokens [n, *shape], the batch of that number.
Measure = Callable[[np.ndarray, int], dict[str, float]]


class Measures(NamedTuple):
  """What is measured on every batch of samples, and what on the samples of all batches together."""

  of_batch: Measure
  of_all: Callable[[np.ndarray], dict[str, float]] = lambda tokens: {}


def make_measures(
  dataset: Dataset, language_model=None, fid: Callable[[np.ndarray], float] | None = None
) -> Measures:
  """Measures on tokens `[n, *shape]` that suit `dataset`.

  Always `kernel_mmd`, the unbiased MMD^2 to the held-out split: a Hamming kernel, for text one of
  pairs of neighbours. With an exact joint: `nll` (nats per token), and of a mixture `impossible`
  (share of samples of probability 0) and `component_tv`, of a hidden Markov model `pair_tv` and
  `pair_mmd`. With labels: `frechet` and `class_tv` against the held-out split. With a
  `language_model`: `gradient_moment` and `perplexity` under it, and how varied the text is. With
  `fid`, the distance by that name of all samples.
  """
  special = special_measure(dataset, language_model)
  kernel = NGram if dataset.tokenizer else Hamming
  kernel = kernel(num_categories=dataset.num_categories)
  kernel_mmd = mmd2_to(random_rows(dataset.held_out, COMPARED), kernel)

  def of_batch(tokens, batch):
    return special(tokens, batch) | {"kernel_mmd": kernel_mmd(tokens)}

  return Measures(of_batch, (lambda tokens: {"fid": fid(tokens)}) if fid else lambda tokens: {})


def special_measure(dataset: Dataset, language_model) -> Measure:
  """The metrics that only some data sets have."""
  if language_model is not None:
    return text_measure(dataset, language_model)
  if dataset.joint is not None:
    measure = markov_metrics if isinstance(dataset.joint, HiddenMarkov) else joint_metrics
    return lambda tokens, _: measure(dataset.joint, tokens)
  if dataset.train_labels is None:
    return lambda *_: {}
  classifier = train_classifier(
    random_rows(dataset.train, CLASSIFIED),
    random_rows(dataset.train_labels, CLASSIFIED),
    dataset.num_categories,
  )
  real_features, real_logits = map(np.asarray, classifier.predict(dataset.held_out))
  real_classes = histogram(np.argmax(real_logits, -1), classifier.num_classes)

  def measure(tokens, _):
    features, logits = classifier.predict(tokens)
    classes = histogram(np.argmax(logits, -1), classifier.num_classes)
    return {
      "frechet": frechet_distance(features, random_rows(real_features, len(tokens))),
      "class_tv": total_variation(classes, real_classes),
    }

  return measure


def text_measure(dataset: Dataset, language_model) -> Measure:
  """A batch is one pair of minibatches of the Gradient Moment, against as many held-out texts.

  These come in a random order of their own (`text.from_streams`).
  """

  def measure(tokens, batch):
    half = len(tokens) // 2
    first = 2 * half * batch % (len(dataset.held_out) - 2 * half + 1)
    data = dataset.held_out[first : first + 2 * half]
    moment = language_model.gradient_moment(tokens[: 2 * half], data, half)
    nll = language_model.nll(tokens, half)
    return {
      "gradient_moment": moment.value,
      "perplexity": generative_perplexity(nll).value,
      "unigram_entropy": unigram_entropy(tokens).value,
      "distinct_4": distinct_ngrams(tokens, 4),
      "repeated_4": repeated_ngrams(tokens, 4),
    }

  return measure


def joint_metrics(joint, tokens: np.ndarray) -> dict[str, float]:
  """Metrics of tokens `[n, D]` under their known joint distribution (`toy.Mixture`)."""
  log_joint = joint.log_joint(tokens)
  highest = log_joint.max(-1)
  possible = np.isfinite(highest)
  metrics = {"impossible": 1.0 - possible.mean()}
  if not possible.any():
    return metrics | {"component_tv": 1.0}
  log_joint, highest = log_joint[possible], highest[possible]
  relative = np.exp(log_joint - highest[:, None])
  if possible.all():
    metrics["nll"] = -(np.log(relative.sum(-1)) + highest).mean() / tokens.shape[1]
  components = (relative / relative.sum(-1, keepdims=True)).mean(0)
  return metrics | {"component_tv": total_variation(components, joint.weights)}


def markov_metrics(joint: HiddenMarkov, tokens: np.ndarray) -> dict[str, float]:
  """Metrics of tokens `[n, D]` under the hidden Markov model that they should come from.

  `pair_tv` is the total variation of the pairs of tokens at a distance, the mean over the distances
  1, 2, 4, … below D. That of real data is above 0, for they are finitely many; their `pair_mmd`
  is 0 in the mean, at any distance.
  """
  num = joint.emission.shape[1]
  distances = [2**i for i in range((tokens.shape[1] - 1).bit_length())]
  pairs = [num * tokens[:, :-d].astype(int) + tokens[:, d:] for d in distances]
  errors = [
    total_variation(histogram(x.reshape(-1), num**2), joint.pairs(d).reshape(-1))
    for x, d in zip(pairs, distances, strict=True)
  ]
  nll = -joint.log_prob(tokens).mean() / tokens.shape[1]
  # First what is lowest for the data: of a likeliest sequence alone nats are the fewest.
  return {"pair_tv": np.mean(errors), "pair_mmd": pair_mmd2(joint, tokens), "nll": nll}


def pair_mmd2(joint: HiddenMarkov, tokens: np.ndarray) -> float:
  """Unbiased MMD^2 of pairs of tokens `[n, D]` to the truth, `n` at least 2; it may be below 0.

  The mean over all distances 1 … D - 1. With a kernel that tells whether two pairs are the same it
  is the sum of squares of the errors of all pairs' probabilities, here over that of the
  probabilities themselves. Pairs of the same sample, which depend on one another, are not compared.
  """
  num, length = tokens.shape
  categories = joint.emission.shape[1]
  errors, squares = [], []
  for distance in range(1, length):
    pairs = categories * tokens[:, :-distance].astype(int) + tokens[:, distance:]
    of_sample = categories**2 * np.arange(num)[:, None] + pairs
    within = np.unique(of_sample, return_counts=True)[1]
    total = np.bincount(pairs.reshape(-1), minlength=categories**2)
    truth, positions = joint.pairs(distance).reshape(-1), length - distance
    between = (total @ total - within @ within) / (num * (num - 1) * positions**2)
    errors.append(between - 2 * total @ truth / (num * positions) + truth @ truth)
    squares.append(truth @ truth)
  return float(np.mean(errors) / np.mean(squares))


def histogram(classes: np.ndarray, num_classes: int) -> np.ndarray:
  """Shares `[num_classes]` of the classes int `[n]`."""
  return np.bincount(classes, minlength=num_classes) / len(classes)


def total_variation(p: np.ndarray, q: np.ndarray) -> float:
  """Half the L1 distance of two distributions `[n]`: 0 when equal, 1 when disjoint."""
  return float(np.abs(p - q).sum() / 2)
