"""Moments of a network's features of images, which the Fréchet distance (FID) compares."""

import hashlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from dmmd_jax.data.pipeline import random_rows
from dmmd_jax.metrics.frechet import Moments
from dmmd_jax.networks import inception

# So many images, anywhere in a data set, tell it from others: of one in a thousand that are
# replaced it sees one, but for a chance of 2 %.
_FINGERPRINT = 4096


def make_fid(weights: str, sharding: NamedSharding, batch_size: int = 128) -> "Fid":
  """The features of FID from their weights file; raises `WeightsError` as `inception.load` does."""
  module, params = inception.load(weights)
  return Fid(lambda p, images: module.apply({"params": p}, images), params, sharding, batch_size)


class Fid:
  """Runs a network `features(params, images [B, H, W, 3] in [0, 1]) -> [B, F]` over many images.

  They are integers in [0, 256), `[n, H, W, C]` of 3 channels or 1, and anything with a length and
  slices. `sharding` splits batches of them. With several processes, all must make the same calls.
  """

  def __init__(
    self,
    features: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    sharding: NamedSharding,
    batch_size: int = 128,
  ):
    replicated = NamedSharding(sharding.mesh, PartitionSpec())

    def run(params, images):
      pixels = jnp.broadcast_to(images, (*images.shape[:-1], 3))  # grey ones have 1 channel
      return features(params, pixels / 255.0)

    self._run = jax.jit(run, out_shardings=replicated)
    self._params = jax.device_put(params, replicated)
    self._sharding = sharding
    self._batch_size = -(-batch_size // sharding.num_devices) * sharding.num_devices
    self._digest = hashlib.sha256(
      b"".join(np.asarray(x).tobytes() for x in jax.tree.leaves(params))
    )

  def moments(self, images: Sequence) -> Moments:
    """Moments of the features of all of one or more images."""
    parts = map(Moments.of, self._features(images))
    return sum(parts, start=next(parts))

  def reference_moments(self, images: Sequence, name: str) -> Moments:
    """`moments` of a data set, kept in the user's cache under its `name`.

    They are made again where the weights, the number of images or some of them have changed.
    """
    digest = self._digest.copy()
    sample = random_rows(images, _FINGERPRINT).astype(np.uint8)
    digest.update(f"{len(images)} {sample.shape}".encode() + sample.tobytes())
    file = f"fid-{name}-{digest.hexdigest()[:16]}.npz".replace("/", "_")  # tfds: name/config
    path = _cache_folder() / file
    try:
      moments = Moments.load(path)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
      moments = None  # none there, or damaged
    # Processes run the network together: it is spared only where all of them have the file.
    if not np.all(multihost_utils.process_allgather(moments is not None)):
      moments = self.moments(images)
      moments.save(path)
    return moments

  def _features(self, images: Sequence) -> Iterator[np.ndarray]:
    """Features `[B, F]` of each batch, fetched while the next one runs."""
    running = None
    for start in range(0, len(images), self._batch_size):
      batch = np.asarray(images[start : start + self._batch_size], np.uint8)
      # The last batch is filled up with images that it has, to be compiled once.
      full = np.resize(batch, (self._batch_size, *batch.shape[1:]))
      placed = jax.make_array_from_callback(full.shape, self._sharding, full.__getitem__)
      following = self._run(self._params, placed), len(batch)
      if running:
        yield _fetch(*running)
      running = following
    yield _fetch(*running)


def _fetch(features: jax.Array, count: int) -> np.ndarray:
  return np.asarray(features)[:count]


def _cache_folder() -> pathlib.Path:
  folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dmmd_jax"
  folder.mkdir(parents=True, exist_ok=True)
  return folder
