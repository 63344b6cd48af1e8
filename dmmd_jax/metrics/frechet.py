"""Fréchet distance between Gaussians fitted to two sets of features (FID, arXiv 1706.08500)."""

import numpy as np


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
  """Distance of features `[n, F]` and `[m, F]`, in squared units of the features; float64 inside.

  Its bias falls with the number of samples: compare values for equal `n` and `m` only.
  """
  x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
  cov_x, cov_y = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = _sqrt(np.atleast_2d(cov_x))
  # tr (S_x S_y)^(1/2) through a symmetric matrix, whose eigenvalues are real and stable.
  cross = np.linalg.eigvalsh(root @ cov_y @ root)
  mean_term = np.square(x.mean(0) - y.mean(0)).sum()
  return float(mean_term + np.trace(cov_x) + np.trace(cov_y) - 2 * np.sqrt(cross.clip(min=0)).sum())


def _sqrt(symmetric: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(symmetric)
  return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
