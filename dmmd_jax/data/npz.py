"""Images and labels in npz files."""

import contextlib
import zipfile
from collections.abc import Iterator

import numpy as np

from dmmd_jax.data.files import expand
from dmmd_jax.data.image_source import (
  MODES,
  ImageError,
  dims,
  of_splits,
  split_off_a_tenth,
)
from dmmd_jax.data.pipeline import Dataset

# Names in use for the images and labels of a split, and for those that are the training split.
_NAMES = (("{}", "{}_labels"), ("{}_images", "{}_labels"), ("x_{}", "y_{}"))
_TRAIN = (("images", "labels"),)
_SPLITS = {"train": ("train",), "test": ("test",), "validation": ("validation", "val", "valid")}


def load_npz(path: str) -> Dataset:
  """Images uint8 `[N, H, W, C]` or `[N, H, W]` of an npz file, and labels int `[N]` of all or none.

  They are called `train`, `train_labels`, `test` and `test_labels`; Keras' and other usual names
  will do. Held out is the test split, else that for validation, else a random tenth, always the
  same. Labels are 0, 1, … without gaps in the training split. Raises `ImageError`.
  """
  images, labels = {}, {}
  with _reading(path) as file:
    for split, (images_key, labels_key) in _keys(path, file.files).items():
      images[split] = _checked_images(f"{images_key} in {path}", file[images_key])
      if labels_key in file.files:
        labels[split] = _checked_labels(
          f"{labels_key} in {path}", file[labels_key], len(images[split])
        )
  shape = images["train"].shape[1:]
  for split, found in images.items():
    if found.shape[1:] != shape:
      raise ImageError(
        f"{path} has images {dims(found.shape[1:])} for {split}; expected {dims(shape)}, as for"
        " train"
      )
  _check_classes(path, labels)
  if len(images) == 1:
    kept, held_out = split_off_a_tenth(path, len(images["train"]))
    for arrays in (images, labels):
      for whole in list(arrays.values()):
        arrays["train"], arrays["test"] = whole[kept], whole[held_out]
  return of_splits(images, labels)


def npz_shape(path: str) -> tuple[int, int, int]:
  """Shape `(H, W, C)` of the training images, from their header alone. Raises `ImageError`."""
  with _reading(path) as file:
    key = _keys(path, file.files)["train"][0]
    with file.zip.open(f"{key}.npy") as array:
      np.lib.format.read_magic(array)
      shape = np.lib.format.read_array_header_1_0(array)[0]
  if len(shape) not in (3, 4):
    load_npz(path)  # Raises, and says what is wrong.
  return (*shape[1:], 1)[:3]


@contextlib.contextmanager
def _reading(path: str) -> Iterator[np.lib.npyio.NpzFile]:
  if not path:
    raise ImageError("dataset.path is ''; name an npz file")
  file = expand(path)
  try:
    if not file.is_file():
      found = "is not a file" if file.exists() else "no such file"
      raise ValueError(found)
    if not zipfile.is_zipfile(file):
      raise ValueError("it is no npz file, or was cut off")
    with np.load(file, allow_pickle=False) as arrays:
      yield arrays
  except ImageError:
    raise
  except Exception as error:  # broken files raise nearly anything
    reason = str(error) or type(error).__name__
    raise ImageError(f"cannot read {path}: {reason}; expected arrays of np.savez") from error


def _keys(path: str, found: list[str]) -> dict[str, tuple[str, str]]:
  """Names of the images and labels of each split that is there."""
  for names in (*_NAMES, *_TRAIN):
    own = tuple(name.format("train") for name in names)
    if own[0] not in found:
      continue
    others = _NAMES[1] if names in _TRAIN else names
    keys = {"train": own}
    for split in ("test", "validation"):
      for spelling in _SPLITS[split]:
        pair = tuple(name.format(spelling) for name in others)
        if pair[0] in found:
          keys.setdefault(split, pair)
    return keys
  raise ImageError(
    f"{path} has the arrays {', '.join(found) or 'none'}; expected train or images, uint8"
    " [N, H, W, C]"
  )


def _checked_images(what: str, images: np.ndarray) -> np.ndarray:
  """As uint8 `[N, H, W, C]`."""
  found = f"{what} is {images.dtype} {dims(images.shape)}"
  if not images.size or images.ndim not in (3, 4):
    raise ImageError(f"{found}; expected images [N, H, W, C] or [N, H, W]")
  if images.ndim == 3 and images.shape[2] in MODES:
    raise ImageError(f"{found}, a single image?; expected [N, H, W, C], [N, H, W, 1] if it is grey")
  if images.ndim == 4 and images.shape[3] not in MODES:
    do = "expected 1, 3 or 4 channels, the last axis"
    if images.shape[1] in MODES:
      do = "the channels come first: transpose it with .transpose(0, 2, 3, 1)"
    raise ImageError(f"{found}; {do}")
  if images.dtype.kind not in "iuf":
    raise ImageError(f"{found}; expected integers from 0 to 255")
  low, high = images.min(), images.max()
  if images.dtype.kind == "f" or low < 0 or high > 255:
    do = ""
    if images.dtype.kind == "f" and 0 <= low <= high <= 1:
      do = ": give (255 * x).round().astype(np.uint8)"
    raise ImageError(f"{found}, values {low:g} to {high:g}; expected integers from 0 to 255{do}")
  images = images.astype(np.uint8, copy=False)
  return images if images.ndim == 4 else images[..., None]


def _checked_labels(what: str, labels: np.ndarray, num: int) -> np.ndarray:
  """As int64 `[N]`."""
  found = f"{what} is {labels.dtype} {dims(labels.shape)}"
  if labels.shape not in ((num,), (num, 1)) or labels.dtype.kind not in "iu":
    raise ImageError(f"{found}; expected {num} integers, one per image")
  if labels.min() < 0:
    raise ImageError(f"{what} has the label {labels.min()}; expected none below 0")
  return labels.reshape(-1)


def _check_classes(path: str, labels: dict[str, np.ndarray]) -> None:
  """A gap would be a class that is asked for and never seen. Makes labels int32."""
  if "train" not in labels:
    return
  classes = np.unique(labels["train"])
  if classes[-1] != len(classes) - 1:
    raise ImageError(
      f"{path} has {len(classes)} classes for train, with labels {classes[0]} to {classes[-1]};"
      f" expected 0 to {len(classes) - 1}: number them by np.unique(labels, return_inverse=True)[1]"
    )
  for split, found in labels.items():
    if found.max() > classes[-1]:
      raise ImageError(
        f"{path} has the label {found.max()} for {split}; expected 0 to {classes[-1]}, as for train"
      )
    labels[split] = found.astype(np.int32)
