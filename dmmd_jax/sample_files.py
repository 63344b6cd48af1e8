"""Files that hold samples: grids of images, arrays, texts. No jax."""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

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
  """Tokens int `[n, ...]` of `num_categories`, of a `kind` that is a key of `ENDINGS`.

  They are `about` what drew them: `model`, `steps`, `nfe`, `seed`, and where there are any `labels`
  int `[n]` and the `digest` of the parameters.
  """

  kind: str
  tokens: np.ndarray
  num_categories: int
  about: dict[str, Any]


def save(path: epath.Path, samples: Samples, decode: Callable[[np.ndarray], str]) -> None:
  """Writes what the ending of the file says: `.png`, `.npz`, or `.txt`, which takes `decode`."""
  ending = os.path.splitext(path)[1].lower()
  if ending == ".txt":
    found = lines(samples.kind, samples.tokens, decode, len(samples.tokens))
    path.write_text("".join(f"{line}\n" for line in found))
  elif ending == ".npz":
    path.write_bytes(npz(samples.tokens, samples.num_categories, **samples.about))
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


def _grid(samples: Samples) -> np.ndarray:
  """Images as one, uint8 `[H, W, 4]`, as square as can be, row by row with transparent gaps."""
  columns = math.ceil(math.sqrt(len(samples.tokens)))
  rows = math.ceil(len(samples.tokens) / columns)
  images = pictures.to_rgb(samples.tokens, samples.num_categories)
  images = np.pad(images, [(0, 0), (0, 0), (0, 0), (0, 1)], constant_values=255)
  times = max(1, _SIDE // max(images.shape[1:3]))
  return pictures.tile(images, rows, columns).repeat(times, axis=0).repeat(times, axis=1)
