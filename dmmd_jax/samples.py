"""Files of samples: grids of images, arrays, texts. Pure Python but for the arrays."""

import io
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
    path.write_text(
      "".join(
        f"{line}\n" for line in lines(samples.kind, samples.tokens, decode, len(samples.tokens))
      )
    )
    return
  with path.open("wb") as file:
    file.write(_png(samples) if ending == ".png" else _npz(samples))


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


def _npz(samples: Samples) -> bytes:
  """Arrays `tokens` in the smallest dtype, `model`, `nfe`, `seed`, and `labels` where there are."""
  about = {name: getattr(samples, name) for name in ("model", "nfe", "seed")}
  labels = {} if samples.labels is None else {"labels": samples.labels}
  return npz(samples.tokens, samples.num_categories, **about, **labels)


def _png(samples: Samples) -> bytes:
  """A grid as square as can be of images `[n, H, W, C]`, row by row."""
  from PIL import Image

  columns = math.ceil(math.sqrt(len(samples.tokens)))
  rows = math.ceil(len(samples.tokens) / columns)
  grid = pictures.tile(samples.tokens, rows, columns)
  grid = np.round(grid * (255 / (samples.num_categories - 1))).astype(np.uint8)
  times = max(1, _SIDE // max(samples.tokens.shape[1:3]))
  grid = grid.repeat(times, axis=0).repeat(times, axis=1)
  contents = io.BytesIO()
  Image.fromarray(grid[..., 0] if grid.shape[-1] == 1 else grid).save(contents, format="PNG")
  return contents.getvalue()
