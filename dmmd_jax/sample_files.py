"""Files that hold samples: grids of images, arrays, texts. No jax."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from etils import epath

from dmmd_jax.report import pictures
from dmmd_jax.report.samples import npz

# What samples are, and the endings of the files that they go to; the first is the usual one.
ENDINGS = {
  "images": (".png", ".npz"),
  "texts": (".txt", ".npz"),
  "sequences": (".txt", ".npz"),
}
# More images than these are no picture to look at.
MOST_IN_GRID = 10_000
# Small images are enlarged, pixel by pixel, to about this side.
_SIDE = 64


class Samples(NamedTuple):
  """Tokens int `[n, ...]` of `num_categories`, what drew them, and classes `labels` int `[n]`.

  `kind` is a key of `ENDINGS`.
  """

  kind: str
  tokens: np.ndarray
  num_categories: int
  model: str
  nfe: int
  seed: int
  labels: np.ndarray | None = None


def save(path: epath.Path, samples: Samples, decode: Callable[[np.ndarray], str]) -> None:
  """Writes what the ending of the file says: `.png`, `.npz`, or `.txt`, which takes `decode`."""
  ending = os.path.splitext(path)[1].lower()
  if ending == ".txt":
    found = lines(samples.kind, samples.tokens, decode, len(samples.tokens))
    path.write_text("".join(f"{line}\n" for line in found))
  elif ending == ".npz":
    _save_arrays(path, samples)
  else:
    path.write_bytes(pictures.png(_grid(samples)))


def lines(
  kind: str, rows: Iterable[np.ndarray], decode: Callable[[np.ndarray], str], num: int
) -> Iterator[str]:
  """All `num` samples, one after the other; several texts each after a line that counts them.

  No alphabet with a character a token has the dashes of that line.
  """
  for i, row in enumerate(rows):
    if kind == "texts" and num > 1:
      yield f"─── {i + 1} of {num} ───"
    yield decode(row)


def _save_arrays(path: epath.Path, samples: Samples) -> None:
  """Arrays `tokens` in the smallest dtype, `model`, `nfe`, `seed`, and `labels` where there are."""
  about = {name: getattr(samples, name) for name in ("model", "nfe", "seed")}
  labels = {} if samples.labels is None else {"labels": samples.labels}
  path.write_bytes(npz(samples.tokens, samples.num_categories, **about, **labels))


def _grid(samples: Samples) -> np.ndarray:
  """Images as one, uint8 `[H, W, 4]`, as square as can be, row by row with transparent gaps."""
  columns = math.ceil(math.sqrt(len(samples.tokens)))
  rows = math.ceil(len(samples.tokens) / columns)
  images = pictures.to_rgb(samples.tokens, samples.num_categories)
  images = np.pad(images, [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=255)
  times = max(1, _SIDE // max(images.shape[1:3]))
  return pictures.tile(images, rows, columns).repeat(times, axis=0).repeat(times, axis=1)
