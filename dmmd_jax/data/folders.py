"""Folders of PNG files: splits and classes are folders."""

import functools
import pathlib

import numpy as np

from dmmd_jax.data.files import expand, find_files
from dmmd_jax.data.image_source import (
  ImageError,
  Lazy,
  check_all,
  decode,
  of_splits,
  split_off_a_tenth,
)
from dmmd_jax.data.pipeline import Dataset

# Folders of the first level with these names are splits.
_SPLITS = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_OTHERS = {".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"}


def load_folder(path: str) -> Dataset:
  """All PNG files below a folder, grey or RGB, of one size; folders of the first level are classes.

  Where there is a folder `train`, alone or beside `test` or `validation` (`val`), these are the
  splits, and classes are below them. Held out is the test split, else that for validation, else a
  random tenth, always the same. Every file is decoded once, now. Raises `ImageError`.
  """
  files, root = _png_files(path), expand(path)
  places = [file.relative_to(root).parts[:-1] for file in files]
  splits = _find_splits(root, places)
  if splits:
    places = [place[1:] for place in places]
  if len(splits) < 2:
    own = splits.get("train", range(len(files)))
    kept, held_out = split_off_a_tenth(path, len(own))
    splits = {"train": [own[i] for i in kept], "test": [own[i] for i in held_out]}
  first = _look(files[splits["train"][0]])
  read = functools.partial(_read, expected=first)
  images = {
    split: Lazy([str(files[i]) for i in indices], read, first[1])
    for split, indices in splits.items()
  }
  check_all(images["train"].__getitem__, len(images["train"]), "reading images")
  labels = _labels({split: [places[i][:1] for i in indices] for split, indices in splits.items()})
  return of_splits(images, labels)


def folder_shape(path: str) -> tuple[int, int, int]:
  """Shape `(H, W, C)` of the first image below a folder. Raises `ImageError`."""
  return _look(_png_files(path, tell=False)[0])[1]


def _png_files(path: str, tell: bool = True) -> list[pathlib.Path]:
  """All PNG files below a folder; whether to `tell` which images are ignored."""
  if not path:
    raise ImageError("dataset.path is ''; name a folder of PNG files")
  root = expand(path)
  if root.is_file():
    raise ImageError(f"{path} is a file; expected a folder of PNG files, or dataset.name=npz")
  try:
    found = find_files(root)
  except OSError as error:
    raise ImageError(f"cannot read {error.filename}: {error.strerror}") from error
  files = [file for file in found if file.suffix.lower() == ".png"]
  others = [file for file in found if file.suffix.lower() in _OTHERS]
  if not files:
    raise ImageError(
      f"found no PNG files below {path}; expected images of one size there"
      + (f", as PNG: convert {others[0].name} and the like" if others else "")
    )
  if others and tell:
    print(f"{path}: {len(others)} files such as {others[0].name} are ignored; only PNG is read")
  return files


def _find_splits(root: pathlib.Path, places: list[tuple[str, ...]]) -> dict[str, list[int]]:
  """Indices of the images of each split; nothing where folders of the first level are classes."""
  names = {place[:1] for place in places}
  folders = [name for name in _SPLITS if (root / name).is_dir()]
  if folders and names <= {(name,) for name in _SPLITS} and "train" not in folders:
    raise ImageError(f"{root} has {' and '.join(folders)}, and no train; expected it beside them")
  if "train" not in folders or (len(folders) == 1 and names != {("train",)}):
    return {}
  splits = {_SPLITS[name]: [] for name in folders}
  for i, place in enumerate(places):
    if place[:1] and place[0] in folders:
      splits[_SPLITS[place[0]]].append(i)
  for split, indices in splits.items():
    if not indices:
      found = ", ".join(f"{len(indices)} in {split}" for split, indices in splits.items())
      raise ImageError(
        f"{root} has PNG files: {found}; expected some in each, or no folder {split}"
      )
  return splits


def _labels(classes: dict[str, list[tuple[str, ...]]]) -> dict[str, np.ndarray]:
  """Labels int32 `[n]` of splits, by the names of folders; none where images are not all in one."""
  known = sorted(set(classes["train"]))
  for split, found in classes.items():
    new = set(found) - set(known)
    if new and () not in new and () not in known:
      raise ImageError(f"the class {min(new)[0]} has images in {split}, and none in train")
  if len(known) < 2 or () in known or any(() in found for found in classes.values()):
    return {}
  label = {name: k for k, name in enumerate(known)}
  return {s: np.array([label[name] for name in found], np.int32) for s, found in classes.items()}


def _look(file: pathlib.Path | str) -> tuple[str, tuple[int, int, int]]:
  """Mode and shape of a PNG file that may be used."""
  mode, pixels = _decode(file)
  if mode not in ("L", "RGB"):
    raise ImageError(f"{file} is {_described(mode, pixels.shape)}; expected L or RGB: convert it")
  return mode, (*pixels.shape, 1)[:3]


def _read(file: str, expected: tuple[str, tuple[int, int, int]]) -> np.ndarray:
  mode, pixels = _decode(file)
  shape = (*pixels.shape, 1)[:3]
  if (mode, shape) != expected:
    raise ImageError(
      f"{file} is {_described(mode, shape)}; expected {_described(*expected)}, as the first image"
    )
  return pixels.reshape(shape)


def _decode(file: pathlib.Path | str) -> tuple[str, np.ndarray]:
  try:
    return decode(str(file))
  except ImageError as error:
    raise ImageError(f"cannot read {file}: {error}; repair it or take it out") from error


def _described(mode: str, shape: tuple[int, ...]) -> str:
  return f"{mode} of {shape[1]}x{shape[0]} pixels"
