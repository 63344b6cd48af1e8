"""Images of 256 values per pixel and channel: tensorflow-datasets, npz files, folders, stripes.

Data sets on disk are read at random, an image at a time, when they are asked for: any image of any
of them costs the same, and nothing but the held-out images has to fit into memory.
"""

import numpy as np

from dmmd_jax.data.folders import folder_shape, load_folder
from dmmd_jax.data.image_source import NUM_CATEGORIES, ImageError
from dmmd_jax.data.npz import load_npz, npz_shape
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.data.tfds_images import load_tfds, tfds_shape

__all__ = ["ImageError", "load_folder", "load_npz", "load_tfds", "shape_of", "stripes"]


def stripes(
  shape: tuple[int, int, int] = (32, 32, 3),
  num_train: int = 512,
  num_held_out: int = 256,
  seed: int = 0,
) -> Dataset:
  """Made images uint8 `[N, *shape]` of ten classes, to try things with where there are no data.

  Stripes of an angle and a colour that the class sets, of any phase, with a little noise.
  """
  rng = np.random.default_rng(seed)
  height, width, channels = shape
  labels = rng.integers(10, size=num_train + num_held_out).astype(np.int32)
  turn = labels[:, None, None] / 10
  y, x = np.mgrid[:height, :width] / max(height, width)
  across = x * np.cos(np.pi * turn) + y * np.sin(np.pi * turn)
  phase = rng.random((len(labels), 1, 1))
  brightness = 0.5 + 0.5 * np.sin(2 * np.pi * (3 * across + phase))
  colour = 0.6 + 0.4 * np.cos(2 * np.pi * (turn + np.arange(channels) / channels))
  pixels = 255 * brightness[..., None] * colour[:, None]
  pixels = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
  return Dataset(
    pixels[:num_train],
    pixels[num_train:],
    NUM_CATEGORIES,
    labels[:num_train],
    labels[num_train:],
  )


def shape_of(name: str, path: str) -> tuple[int, int, int]:
  """Shape `(H, W, C)` of the images of `npz`, `folder` or a data set of tfds, from headers alone.

  A data set that tfds knows need not have been prepared. Raises `ImageError`.
  """
  if name == "folder":
    return folder_shape(path)
  return npz_shape(path) if name == "npz" else tfds_shape(name, path)
