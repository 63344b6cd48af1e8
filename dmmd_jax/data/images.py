"""Images of 256 values per pixel and channel: tensorflow-datasets, npz files, folders, stripes.

Data sets on disk are read at random, an image at a time, when they are asked for: any image of any
of them costs the same, and nothing but the held-out images has to fit into memory.
"""

import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dmmd_jax.data.pipeline import Dataset

NUM_CATEGORIES = 256
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Names of the arrays in an npz file that are in use; only the first of a row has to be there.
_NPZ_KEYS = (
  ("train", "train_labels", "test", "test_labels"),
  ("images", "labels", "test_images", "test_labels"),
  ("x_train", "y_train", "x_test", "y_test"),
  ("train_images", "train_labels", "test_images", "test_labels"),
)


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


def load_tfds(name: str, data_dir: str) -> Dataset:
  """The images of the data set `name` below `data_dir` ("" is where tfds puts it).

  Held out is the test split, else that for validation, else the last tenth of the training split.
  Raises `ImageError` where it is unknown, not prepared, without random access or a fixed size.
  """
  import tensorflow_datasets as tfds

  builder = _builder(name, data_dir)
  key, shape = _image_feature(builder)
  splits = builder.info.splits
  if not splits:
    raise ImageError(
      f"the data set {name} is not in {data_dir or '~/tensorflow_datasets'}; prepare it:"
      f" {_recipe(name, data_dir)}"
    )
  if "train" not in splits:
    raise ImageError(f"{name} has the splits {', '.join(splits)}; expected train among them")
  held_out = next((split for split in ("test", "validation") if split in splits), "train[90%:]")
  train = "train[:90%]" if held_out.startswith("train") else "train"
  label = dict(builder.info.features.items()).get("label")
  is_labelled = label is not None and label.shape == () and np.dtype(label.np_dtype).kind in "iu"
  # Pillow decodes here, as it does for folders: tfds would convert no mode, and warn of OpenCV.
  decoders = {key: tfds.decode.SkipDecoding()}
  read = functools.partial(_image_of_record, key=key, mode=_MODES[shape[2]])

  def sequences(split):
    if splits[split].num_examples == 0:
      raise ImageError(f"{split} of {name} has no images; expected at least one")
    source = builder.as_data_source(split, decoders=decoders)
    return Lazy(source, read, shape), Lazy(source, _label_of_record, ()) if is_labelled else None

  try:
    (train_images, train_labels), (images, labels) = sequences(train), sequences(held_out)
  except NotImplementedError as error:
    raise ImageError(
      f"{name} in {builder.data_dir} is in {builder.info.file_format.value} files, without random"
      " access; expected array_record: move them away and write it again; for a data set of tfds:"
      f" {_recipe(name, data_dir)}"
    ) from error
  return Dataset(
    train_images, images[:], NUM_CATEGORIES, train_labels, None if labels is None else labels[:]
  )


def load_npz(path: str) -> Dataset:
  """Images uint8 `[N, H, W, C]` or `[N, H, W]` of an npz file, and labels int `[N]` of all or none.

  They are called `train`, `train_labels`, `test` and `test_labels`; Keras' and other usual names
  will do. Without a test split a random tenth, always the same, is held out. Raises `ImageError`.
  """
  with _reading_npz(path), np.load(pathlib.Path(path).expanduser()) as file:
    keys = _npz_keys(path, file.files)
    train, train_labels, test, test_labels = (file[k] if k in file.files else None for k in keys)
  train = _checked_images(f"{keys[0]} in {path}", train)
  if train_labels is not None:
    train_labels = _checked_labels(f"{keys[1]} in {path}", train_labels, len(train))
  if test is None:
    kept, held_out = _split(path, len(train))
    test, train = train[held_out], train[kept]
    if train_labels is not None:
      test_labels, train_labels = train_labels[held_out], train_labels[kept]
  else:
    test = _checked_images(f"{keys[2]} in {path}", test)
    if test_labels is not None:
      test_labels = _checked_labels(f"{keys[3]} in {path}", test_labels, len(test))
  if test.shape[1:] != train.shape[1:]:
    raise ImageError(
      f"{path} has images {_dims(test.shape[1:])} in {keys[2]}; expected"
      f" {_dims(train.shape[1:])}, as in {keys[0]}"
    )
  if train_labels is None or test_labels is None:
    train_labels = test_labels = None
  return Dataset(train, test, NUM_CATEGORIES, train_labels, test_labels)


def load_folder(path: str) -> Dataset:
  """All PNG files below a folder, grey or RGB, of one size; folders of the first level are classes.

  Folders `train` and `test`, where there are both, are the splits, with their classes below them;
  else a random tenth, always the same, is held out. Raises `ImageError`.
  """
  root = pathlib.Path(path).expanduser()
  files = _png_files(root)
  places = [file.relative_to(root).parts[:-1] for file in files]
  if (root / "train").is_dir() and (root / "test").is_dir():
    train, held_out = (
      [i for i, place in enumerate(places) if place[:1] == (split,)] for split in ("train", "test")
    )
    if not (train and held_out):
      raise ImageError(f"{path} has {len(train)} PNG files in train and {len(held_out)} in test")
    places = [place[1:] for place in places]
  else:
    train, held_out = _split(path, len(files))
  used = [*train, *held_out]
  first = _header(files[used[0]])
  for i in used:
    if (found := _header(files[i])) != first:
      raise ImageError(
        f"{files[i]} is {_described(*found)}; expected {_described(*first)}, as {files[used[0]]}"
      )
  mode, shape = first
  classes = {place: k for k, place in enumerate(sorted({places[i][:1] for i in used}))}
  is_labelled = len(classes) > 1 and () not in classes

  def images_and_labels(indices):
    images = Lazy([str(files[i]) for i in indices], functools.partial(_pixels, mode=mode), shape)
    labels = np.array([classes[places[i][:1]] for i in indices], np.int32)
    return images, labels if is_labelled else None

  (train_images, train_labels), (images, labels) = map(images_and_labels, (train, held_out))
  return Dataset(train_images, images[:], NUM_CATEGORIES, train_labels, labels)


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
    return _header(_png_files(pathlib.Path(path).expanduser())[0])[1]
  if name != "npz":
    return _image_feature(_builder(name, path))[1]
  with _reading_npz(path), zipfile.ZipFile(pathlib.Path(path).expanduser()) as file:
    key = _npz_keys(path, [member.removesuffix(".npy") for member in file.namelist()])[0]
    with file.open(f"{key}.npy") as array:
      np.lib.format.read_magic(array)
      shape = np.lib.format.read_array_header_1_0(array)[0]
  if len(shape) not in (3, 4):
    load_npz(path)  # Raises, and says what is wrong.
  return (*shape[1:], 1)[:3]


def _builder(name: str, data_dir: str):
  import tensorflow_datasets as tfds

  try:
    return tfds.builder(name, data_dir=os.path.expanduser(data_dir) or None)
  except (ValueError, AssertionError) as error:  # tfds raises the latter for a wrong version.
    raise ImageError(
      f"no data set {name!r} in tensorflow-datasets, nor in"
      f" {data_dir or '~/tensorflow_datasets'} ({str(error).splitlines()[0]}); expected a name of"
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
  if None in shape or shape[2] not in _MODES or dtype != np.uint8:
    raise ImageError(
      f"the images of {builder.name} are {_dims(shape)} of {dtype}; expected a fixed height and"
      " width, and uint8: resize them yourself, and give them as npz or folder"
    )
  return key, shape


def _recipe(name: str, data_dir: str) -> str:
  where = f", data_dir={os.path.expanduser(data_dir)!r}" if data_dir else ""
  return (
    f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{where})'
    ".download_and_prepare(file_format='array_record')\""
  )


def _pixels(file: str | io.BytesIO, mode: str) -> np.ndarray:
  """Decodes an image, uint8 `[H, W, C]`."""
  from PIL import Image

  with Image.open(file) as image:
    pixels = np.array(image.convert(mode))
  return pixels if pixels.ndim == 3 else pixels[..., None]


def _image_of_record(record: dict, key: str, mode: str) -> np.ndarray:
  return _pixels(io.BytesIO(record[key]), mode)


def _label_of_record(record: dict) -> np.ndarray:
  return np.array(record["label"], np.int32)


def _png_files(root: pathlib.Path) -> list[pathlib.Path]:
  files = sorted(file for file in root.rglob("*") if file.suffix.lower() == ".png")
  if not files:
    raise ImageError(f"found no PNG files below {root}; expected images of one size there")
  return files


def _header(file: pathlib.Path) -> tuple[str, tuple[int, int, int]]:
  """Mode of Pillow and shape of a PNG file; nothing but its first bytes is read."""
  from PIL import Image

  try:
    with Image.open(file) as image:
      mode, shape = image.mode, (image.height, image.width, len(image.getbands()))
  except OSError as error:
    raise ImageError(f"cannot read {file}: {error}; repair it or take it out") from error
  if mode not in ("L", "RGB"):
    raise ImageError(f"{file} is {_described(mode, shape)}; expected L or RGB: convert it")
  return mode, shape


def _described(mode: str, shape: tuple[int, int, int]) -> str:
  return f"{mode} of {shape[1]}x{shape[0]} pixels"


def _split(path: str, num: int) -> tuple[np.ndarray, np.ndarray]:
  """Indices to train on and to hold out: a random tenth, the same for the same number."""
  if num < 2:
    raise ImageError(f"{path} has {num} images; expected at least 2, as a tenth is held out")
  order = np.random.default_rng(0).permutation(num)
  num_held_out = max(1, num // 10)
  return order[num_held_out:], order[:num_held_out]


@contextlib.contextmanager
def _reading_npz(path: str) -> Iterator[None]:
  try:
    yield
  except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
    raise ImageError(f"cannot read {path}: {error}; expected arrays of np.savez") from error


def _npz_keys(path: str, found: list[str]) -> tuple[str, ...]:
  for keys in _NPZ_KEYS:
    if keys[0] in found:
      return keys
  raise ImageError(
    f"{path} has the arrays {', '.join(found) or 'none'}; expected {_NPZ_KEYS[0][0]} or"
    f" {_NPZ_KEYS[1][0]}, uint8 [N, H, W, C]"
  )


def _checked_images(what: str, images: np.ndarray) -> np.ndarray:
  images = images[..., None] if images.ndim == 3 else images
  is_integer = images.dtype.kind in "iu"
  if (
    images.ndim != 4 or not images.size or not is_integer or images.min() < 0 or images.max() > 255
  ):
    span = f", values {images.min():g} to {images.max():g}" if images.size and is_integer else ""
    raise ImageError(
      f"{what} is {images.dtype} {_dims(images.shape)}{span}; expected integers [N, H, W, C] or"
      " [N, H, W] from 0 to 255"
    )
  return images.astype(np.uint8, copy=False)


def _checked_labels(what: str, labels: np.ndarray, num: int) -> np.ndarray:
  if labels.size != num or labels.dtype.kind not in "iu":
    raise ImageError(
      f"{what} is {labels.dtype} {_dims(labels.shape)}; expected {num} integers, one per image"
    )
  return labels.reshape(-1).astype(np.int32)


def _dims(shape: tuple[int | None, ...]) -> str:
  return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"
