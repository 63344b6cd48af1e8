"""Fréchet distance between Gaussians fitted to two sets of features (FID, arXiv 1706.08500)."""

import dataclasses
import os
import pathlib
import tempfile

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Moments:
  """What the distance needs to know of a set of features, in float64; `+` joins two sets.

  There are `count` of them, with mean `[F]`; `scatter` `[F, F]` is the sum of products of their
  deviations from it.
  """

  count: int
  mean: np.ndarray
  scatter: np.ndarray

  @classmethod
  def of(cls, features: np.ndarray) -> "Moments":
    """The moments of features `[n, F]`."""
    features = np.asarray(features, np.float64)
    mean = features.mean(0)
    deviations = features - mean
    return cls(len(features), mean, deviations.T @ deviations)

  def __add__(self, other: "Moments") -> "Moments":
    # Chan et al. 1979: the means' difference is all that sums of squares of deviations lack.
    count = self.count + other.count
    shift = other.mean - self.mean
    return Moments(
      count,
      self.mean + shift * (other.count / count),
      self.scatter + other.scatter + np.outer(shift, shift) * (self.count * other.count / count),
    )

  @property
  def covariance(self) -> np.ndarray:
    """The unbiased covariance `[F, F]`."""
    return self.scatter / (self.count - 1)

  def save(self, path: str | pathlib.Path) -> None:
    """Writes an npz file, whole or not at all."""
    path = pathlib.Path(path)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
      np.savez(file, **dataclasses.asdict(self))
    os.replace(file.name, path)

  @classmethod
  def load(cls, path: str | pathlib.Path) -> "Moments":
    """Reads what `save` wrote; raises what `np.load` raises, and `KeyError` for other npz files."""
    with np.load(path) as file:
      return cls(int(file["count"]), file["mean"], file["scatter"])


def distance(x: Moments, y: Moments) -> float:
  """Distance of two sets of features by their moments, in squared units of the features.

  Its bias falls with the number of samples: compare values for equal counts only.
  """
  root, covariance = _sqrt(x.covariance), y.covariance
  # tr (S_x S_y)^(1/2) through a symmetric matrix, whose eigenvalues are real and stable.
  cross = np.linalg.eigvalsh(root @ covariance @ root)
  trace = np.trace(x.covariance) + np.trace(covariance)
  return float(np.square(x.mean - y.mean).sum() + trace - 2 * np.sqrt(cross.clip(min=0)).sum())


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
  """`distance` of features `[n, F]` and `[m, F]`."""
  return distance(Moments.of(x), Moments.of(y))


def _sqrt(symmetric: np.ndarray) -> np.ndarray:
  values, vectors = np.linalg.eigh(symmetric)
  return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
