"""A trigram model with Kneser-Ney smoothing: what any model of characters must beat."""

import numpy as np


class KneserNey:
  """Conditional probabilities from tokens int `[N]` of a small alphabet, as dense tables `K^3`.

  Interpolated, with one discount `n_1 / (n_1 + 2 n_2)` per order (Kneser & Ney 1995; Chen & Goodman
  1999): lower orders count how many different contexts a token follows.
  """

  def __init__(self, tokens: np.ndarray, num_categories: int):
    k = num_categories
    tokens = np.asarray(tokens, np.int64)
    codes = (tokens[:-2] * k + tokens[1:-1]) * k + tokens[2:]
    counts = np.bincount(codes, minlength=k**3).reshape(k, k, k)
    pairs = (counts > 0).sum(0)
    singles = (pairs > 0).sum(0)
    # One more for all: a token that training never saw is not impossible.
    self.unigram = _interpolate(singles + 1, np.full(k, 1.0 / k))
    self.bigram = _interpolate(pairs, self.unigram)
    self.trigram = _interpolate(counts, self.bigram)

  def token_nll(self, x: np.ndarray) -> np.ndarray:
    """Nats of each token of `[n, D]` given up to two before it in the same row."""
    x = np.asarray(x, np.int64)
    third = self.trigram[x[:, :-2], x[:, 1:-1], x[:, 2:]]
    first, second = self.unigram[x[:, :1]], self.bigram[x[:, :1], x[:, 1:2]]
    return -np.log(np.concatenate([first, second, third], 1))


def _interpolate(counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
  """Discounted counts `[..., K]` plus the mass so freed, spread as `lower` `[..., K]` says."""
  once, twice = (counts == 1).sum(), (counts == 2).sum()
  discount = once / max(once + 2 * twice, 1)
  total = counts.sum(-1, keepdims=True)
  freed = discount * (counts > 0).sum(-1, keepdims=True)
  seen = (np.maximum(counts - discount, 0.0) + freed * lower) / np.maximum(total, 1)
  return np.where(total > 0, seen, lower)
