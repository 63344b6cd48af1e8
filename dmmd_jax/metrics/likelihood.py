"""What text is like: perplexity under a reference model, and how varied it is."""

import numpy as np

from dmmd_jax.metrics.gradient_moment import Estimate


def generative_perplexity(nll: np.ndarray) -> Estimate:
  """`exp` of the mean of `nll` `[n]`, each sample's nats per token; the error by the delta method.

  Repetition wins it: read it with the entropy.
  """
  value = float(np.exp(np.mean(nll)))
  return Estimate(value, value * _stderr(nll) if len(nll) > 1 else None)


def unigram_entropy(tokens: np.ndarray) -> Estimate:
  """Mean over samples `[n, D]` of the entropy (nats) of each one's own token frequencies."""
  entropies = []
  for row in np.asarray(tokens):
    shares = np.unique(row, return_counts=True)[1] / len(row)
    entropies.append(-(shares * np.log(shares)).sum())
  return Estimate(float(np.mean(entropies)), _stderr(entropies) if len(entropies) > 1 else None)


def distinct_ngrams(tokens: np.ndarray, n: int) -> float:
  """Share of different n-grams among all those of samples `[m, D]` (distinct-n)."""
  grams = _ngrams(tokens, n).reshape(-1, n)
  return len(np.unique(grams, axis=0)) / len(grams)


def repeated_ngrams(tokens: np.ndarray, n: int) -> float:
  """Mean over samples `[m, D]` of the share of n-grams that the same sample has had before."""
  grams = _ngrams(tokens, n)
  return float(np.mean([1.0 - len(np.unique(row, axis=0)) / len(row) for row in grams]))


def _ngrams(tokens: np.ndarray, n: int) -> np.ndarray:
  return np.lib.stride_tricks.sliding_window_view(np.asarray(tokens), n, axis=1)


def _stderr(values) -> float:
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))
