"""Pixels of tokens: images, and sequences that are not text."""

import io

import numpy as np
from PIL import Image

# No grey level, so that in grey images a mask cannot be mistaken for a pixel.
MASK = (214, 126, 44)

# Values of a picture at most: forty images of 64 x 64 in colour, a few of 256 x 256.
_MOST_VALUES = 500_000


def to_rgb(tokens: np.ndarray, num_categories: int) -> np.ndarray:
  """Images uint8 `[n, H, W, 3]` of tokens `[n, H, W, C]` with values in `[0, num_categories]`.

  Three channels are colours, and a fourth their opacity on white; any other number is averaged. A
  pixel with a mask, the token `num_categories`, in any channel has the colour `MASK`.
  """
  levels = np.minimum(tokens, num_categories - 1) / max(num_categories - 1, 1)
  if tokens.shape[-1] == 4:
    levels = 1.0 - levels[..., 3:] * (1.0 - levels[..., :3])
  elif tokens.shape[-1] != 3:
    levels = levels.mean(-1, keepdims=True)
  pixels = np.broadcast_to(np.round(255 * levels), (*tokens.shape[:-1], 3)).astype(np.uint8)
  masked = (tokens.astype(np.int64) >= num_categories).any(-1, keepdims=True)
  return np.where(masked, np.array(MASK, np.uint8), pixels)


def tile(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Images `[n, H, W, C]` as one image, padded by a pixel of zeros."""
  images = images[: rows * columns]
  blank = np.zeros((rows * columns - len(images), *images.shape[1:]), images.dtype)
  images = np.pad(np.concatenate([images, blank]), [(0, 0), (0, 1), (0, 1), (0, 0)])
  _, h, w, c = images.shape
  tiled = images.reshape(rows, columns, h, w, c).swapaxes(1, 2)
  return tiled.reshape(rows * h, columns * w, c)


def grid(tokens: np.ndarray, num_categories: int, rows: int, columns: int) -> np.ndarray:
  """The first examples as one image with opacity, uint8 `[H, W, 4]`.

  Images `[n, H, W, C]` are tiled, as many as fit and are few values, with transparent gaps;
  sequences `[n, D]` are the columns of one image.
  """
  if tokens.ndim == 2:
    return _opaque(to_rgb(tokens[: rows * columns].T[None, ..., None], num_categories))[0]
  most = max(1, _MOST_VALUES // int(np.prod(tokens.shape[1:])))
  tokens = tokens[: min(most, rows * columns)]
  columns = min(columns, len(tokens))
  rows = -(-len(tokens) // columns)
  return tile(_opaque(to_rgb(tokens, num_categories)), rows, columns)


def _opaque(images: np.ndarray) -> np.ndarray:
  return np.pad(images, [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=255)


def png(image: np.ndarray) -> bytes:
  """An image uint8 `[H, W, 3]`, or `[H, W, 4]` with opacity, as a file."""
  file = io.BytesIO()
  Image.fromarray(image).save(file, "PNG", optimize=True)
  return file.getvalue()
