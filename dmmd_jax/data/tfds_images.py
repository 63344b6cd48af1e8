"""Images of tensorflow-datasets, in random-access files."""

import dataclasses
import io
import math
import os
from collections.abc import Sequence

import numpy as np

from dmmd_jax.data.image_source import (
  MODES,
  ImageError,
  Lazy,
  check_all,
  decode,
  dims,
  of_splits,
  split_off_a_tenth,
)
from dmmd_jax.data.pipeline import Dataset


def load_tfds(name: str, data_dir: str) -> Dataset:
  """The images of the data set `name` below `data_dir` ("" is where tfds puts it).

  Held out is the test split, else that for validation, else a random tenth, always the same. Labels
  are its feature `label`, where that is a `ClassLabel`. Every record is decoded once, now. Raises
  `ImageError` where it is unknown, not prepared, damaged, without random access or a fixed size.
  """
  builder = _builder(name, data_dir)
  key, shape = _image_feature(builder)
  if not builder.info.splits:
    raise ImageError(
      f"the data set {name} is not in {data_dir or '~/tensorflow_datasets'}; prepare it:"
      f" {_recipe(name, data_dir)}"
    )
  sources = _sources(builder, name, key, _recipe(name, data_dir))
  rows = {split: range(len(source)) for split, source in sources.items()}
  if len(sources) == 1:
    rows = dict(zip(("train", "test"), split_off_a_tenth(name, len(rows["train"])), strict=True))
    sources["test"] = sources["train"]
  num_classes = _num_classes(builder)
  images, labels = {}, {}
  for split, source in sources.items():
    records = _Records(f"{split} of {name}", source, key, MODES[shape[2]], shape, num_classes)
    images[split] = Lazy(rows[split], records.image, shape)
    if num_classes:
      labels[split] = Lazy(rows[split], records.label, ())
    if split == "train":
      check_all(
        Lazy(rows[split], records.check, ()).__getitem__, len(rows[split]), "reading images"
      )
  return of_splits(images, labels)


def _sources(builder, name: str, key: str, recipe: str) -> dict[str, Sequence]:
  """Records of each split, the images as they are stored."""
  import tensorflow_datasets as tfds

  splits = builder.info.splits
  if "train" not in splits:
    raise ImageError(f"{name} has the splits {', '.join(splits)}; expected train among them")
  # Pillow decodes here, as it does for folders: tfds would convert no mode, and warn of OpenCV.
  decoders = {key: tfds.decode.SkipDecoding()}
  sources = {}
  for split in ("train", "test", "validation"):
    if split not in splits:
      continue
    if splits[split].num_examples == 0:
      raise ImageError(f"{split} of {name} has no images; expected at least one")
    try:
      sources[split] = builder.as_data_source(split, decoders=decoders)
    except NotImplementedError as error:
      raise ImageError(
        f"{name} in {builder.data_dir} is in {builder.info.file_format.value} files, without random"
        " access; expected array_record: move them away and write it again; for a data set of tfds:"
        f" {recipe}"
      ) from error
    except Exception as error:  # broken files raise nearly anything
      raise ImageError(
        f"cannot read {split} of {name} in {builder.data_dir}: {error}; move it away and write it"
        " again"
      ) from error
  return sources


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class _Records:
  """Reads the records of one split by their number. Raises `ImageError`."""

  name: str
  source: Sequence
  key: str
  mode: str
  shape: tuple[int, int, int]
  num_classes: int

  def image(self, i: int) -> np.ndarray:
    encoded = io.BytesIO(self._record(i)[self.key])
    try:
      pixels = decode(encoded, ("PNG", "JPEG"), self.mode)[1]
    except ImageError as error:
      raise ImageError(f"cannot read record {i} of {self.name}: {error}; write it again") from error
    if pixels.size != math.prod(self.shape):
      raise ImageError(
        f"record {i} of {self.name} is {dims(pixels.shape)}; expected {dims(self.shape)}"
      )
    return pixels.reshape(self.shape)

  def label(self, i: int) -> np.ndarray:
    label = np.array(self._record(i)["label"], np.int32)
    if not 0 <= label < self.num_classes:
      raise ImageError(
        f"record {i} of {self.name} has the label {label}; expected 0 to {self.num_classes - 1}"
      )
    return label

  def check(self, i: int) -> np.ndarray:
    """Reads both."""
    self.image(i)
    return self.label(i) if self.num_classes else np.zeros(())

  def _record(self, i: int) -> dict:
    try:
      return self.source[int(i)]
    except Exception as error:  # broken files raise nearly anything
      raise ImageError(
        f"cannot read record {i} of {self.name}: {error}; move it away and write it again"
      ) from error


def _num_classes(builder) -> int:
  """How many classes the feature `label` has; 0 where it is none of classes."""
  import tensorflow_datasets as tfds

  label = dict(builder.info.features.items()).get("label")
  return (label.num_classes or 0) if isinstance(label, tfds.features.ClassLabel) else 0


def tfds_shape(name: str, data_dir: str) -> tuple[int, int, int]:
  """Shape `(H, W, C)` of a data set that tfds knows, prepared or not. Raises `ImageError`."""
  return _image_feature(_builder(name, data_dir))[1]


def _builder(name: str, data_dir: str):
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(name, data_dir=os.path.expanduser(data_dir) or None)
  except Exception as error:  # tfds raises nearly anything, such as AssertionError for a version
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise ImageError(
      f"no data set {name!r} in tensorflow-datasets, nor in"
      f" {data_dir or '~/tensorflow_datasets'} ({reason}); expected a name of"
      " tensorflow.org/datasets/catalog, or npz or folder for images of your own"
    ) from error


def _image_feature(builder) -> tuple[str, tuple[int, int, int]]:
  """Name and shape of the images: the feature `image`, or else the first that is an image."""
  import tensorflow_datasets as tfds

  features = dict((builder.info.features or {}).items())
  images = [key for key, x in features.items() if isinstance(x, tfds.features.Image)]
  if not images:
    raise ImageError(
      f"{builder.name} has the features {', '.join(features)}; expected an image among them"
    )
  key = "image" if "image" in images else images[0]
  shape, dtype = features[key].shape, np.dtype(features[key].np_dtype)
  if None in shape or shape[2] not in MODES or dtype != np.uint8:
    raise ImageError(
      f"the images of {builder.name} are {dims(shape)} of {dtype}; expected a fixed height and"
      " width, and uint8: resize them yourself, and give them as npz or folder"
    )
  return key, shape


def _recipe(name: str, data_dir: str) -> str:
  where = f", data_dir={os.path.expanduser(data_dir)!r}" if data_dir else ""
  return (
    f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{where})'
    ".download_and_prepare(file_format='array_record')\""
  )
