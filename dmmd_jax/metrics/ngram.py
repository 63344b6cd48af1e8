"""A trigram model with Kneser-Ney smoothing: what any model of characters must beat."""

import numpy as np


class KneserNey:
  """Conditional probabilities from tokens int `[..., D]` of a small alphabet, as dense tables.

  `trigram` `[K, K, K]`, `bigram` `[K, K]` and `unigram` `[K]` are for tokens with two, one and none
  before them in a row. Each is interpolated, with one discount `n_1 / (n_1 + 2 n_2)` per order
  (Kneser & Ney 1995; Chen & Goodman 1999): it counts how often tokens came, and backs off to
  distributions that count how many different contexts they followed.
  """

  def __init__(self, tokens: np.ndarray, num_categories: int):
    k = num_categories
    tokens = np.asarray(tokens, np.int64)
    singles, pairs, triples = (_counts(tokens, order, k) for order in (1, 2, 3))
    even = np.full(k, 1.0 / k)
    after_any = _interpolate((pairs > 0).sum(0), even)
    after_pairs = _interpolate((triples > 0).sum(0), after_any)
    self.unigram = _interpolate(singles, even)
    self.bigram = _interpolate(pairs, after_any)
    self.trigram = _interpolate(triples, after_pairs)

  def token_nll(self, x: np.ndarray) -> np.ndarray:
    """Nats of each token of `[n, D]` given up to two before it in the same row."""
    x = np.asarray(x, np.int64)
    third = self.trigram[x[:, :-2], x[:, 1:-1], x[:, 2:]]
    first, second = self.unigram[x[:, :1]], self.bigram[x[:, :1], x[:, 1:2]]
    return -np.log(np.concatenate([first, second, third], 1))


def _counts(tokens: np.ndarray, order: int, k: int) -> np.ndarray:
  """How often each n-gram of `order` tokens comes within rows `[..., D]`: `[K, ...]`."""
  length = max(tokens.shape[-1] - order + 1, 0)
  codes = sum(tokens[..., i : i + length] * k ** (order - 1 - i) for i in range(order))
  return np.bincount(codes.reshape(-1), minlength=k**order).reshape((k,) * order)


def _interpolate(counts: np.ndarray, lower: np.ndarray) -> np.ndarray:
  """Discounted counts `[..., K]` plus the mass so freed, spread as `lower` `[..., K]` says."""
  # As if one had come once where none has: nothing that training never saw is impossible.
  once, twice = max((counts == 1).sum(), 1), (counts == 2).sum()
  discount = once / (once + 2 * twice)
  total = counts.sum(-1, keepdims=True)
  freed = discount * (counts > 0).sum(-1, keepdims=True)
  seen = (np.maximum(counts - discount, 0.0) + freed * lower) / np.maximum(total, 1)
  return np.where(total > 0, seen, lower)
