"""What the sources of images share: decoding, reading when asked for, and checks."""

import concurrent.futures
import dataclasses
import io
import os
from collections.abc import Callable, Sequence

import numpy as np

from dmmd_jax.data.pipeline import Dataset

NUM_CATEGORIES = 256
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # of Pillow, by the number of channels
# A thread reads this many images in one go: to hand out each would cost as much as to decode it.
_READ_AT_ONCE = 128


class ImageError(Exception):
  """Images that cannot be had; the message says what was found, and what to do."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Lazy:
  """What `read` makes of the items of `source`, arrays `item_shape`, when they are asked for.

  An index gives one of them, a slice a stack. Workers of grain receive it pickled.
  """

  source: Sequence
  read: Callable[[object], np.ndarray]
  item_shape: tuple[int, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    return (len(self), *self.item_shape)

  def __len__(self) -> int:
    return len(self.source)

  def __getitem__(self, index: int | slice) -> np.ndarray:
    index = range(len(self))[index]
    if isinstance(index, int):
      return self.read(self.source[index])
    items = [self.read(self.source[i]) for i in index]
    return np.stack(items) if items else np.zeros((0, *self.item_shape), np.uint8)


def check_all(read: Callable[[int], object], num: int, name: str) -> None:
  """Calls `read(i)` for every `i` below `num` in threads, with a progress bar.

  Of several processes each reads a share, and all raise the `ImageError` of the first `i` that has
  one.
  """
  import jax
  from jax.experimental import multihost_utils

  from dmmd_jax.progress import progress_bar

  def first_bad(indices: range) -> int:
    for i in indices:
      try:
        read(i)
      except ImageError:
        return i
    return num

  share = range(jax.process_index(), num, jax.process_count())
  parts = [share[i : i + _READ_AT_ONCE] for i in range(0, len(share), _READ_AT_ONCE)]
  found = num
  # More threads than cores, as on a network's file system each waits most of the time.
  pool = concurrent.futures.ThreadPoolExecutor(min(32, 2 * (os.cpu_count() or 1)))
  try:
    with progress_bar(len(share), 0, name, "images", delay=2.0) as progress:
      for part, found in zip(parts, pool.map(first_bad, parts), strict=True):
        progress.update(len(part))
        if found < num:
          progress.leave = False  # an error is one line
          break
  finally:
    pool.shutdown(cancel_futures=True)
  if jax.process_count() > 1:
    found = int(np.min(multihost_utils.process_allgather(np.int32(found))))
  if found < num:
    read(found)
    raise ImageError(f"another process cannot read image {found} of the {num} of {name}")


def decode(
  file: str | io.BytesIO, formats: tuple[str, ...] = ("PNG",), mode: str | None = None
) -> tuple[str, np.ndarray]:
  """The mode of Pillow that an image has, and its pixels, `[H, W]` or `[H, W, C]`, in `mode`.

  Raises `ImageError` for a file that is broken, or in none of the formats.
  """
  from PIL import Image

  try:
    with Image.open(file, formats=formats) as image:
      return image.mode, np.array(image.convert(mode) if mode else image)
  except Image.UnidentifiedImageError as error:
    raise ImageError(f"it is not {' or '.join(formats)}") from error
  except Exception as error:  # broken files raise nearly anything
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    raise ImageError(reason) from error


def split_off_a_tenth(name: str, num: int) -> tuple[np.ndarray, np.ndarray]:
  """Indices to train on and to hold out: a random tenth, the same for the same number."""
  if num < 2:
    found = "a single image" if num else "no images"
    raise ImageError(f"{name} has {found}; expected at least 2, as a tenth is held out")
  order = np.random.default_rng(0).permutation(num)
  num_held_out = max(1, num // 10)
  return order[num_held_out:], order[:num_held_out]


def of_splits(images: dict[str, Sequence], labels: dict[str, Sequence]) -> Dataset:
  """A data set of the images of `train`, `test` and `validation`, and of the labels of all or none.

  Without a test split that for validation is held out.
  """
  held_out = "test" if "test" in images else "validation"
  validation = "validation" if held_out == "test" else None
  labels = labels if labels.keys() == images.keys() else {}

  def whole(arrays, split):
    return arrays[split][:] if split in arrays else None

  return Dataset(
    images["train"],
    whole(images, held_out),
    NUM_CATEGORIES,
    labels.get("train"),
    whole(labels, held_out),
    validation=whole(images, validation),
    validation_labels=whole(labels, validation),
  )


def dims(shape: tuple[int | None, ...]) -> str:
  """A shape as text, `?` where it is not fixed."""
  return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"
