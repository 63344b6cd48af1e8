"""Checkpoints of PyTorch and Lightning, without either, and without running what they say.

A pickle can ask for any function to be called. Here it gets tensors that are not read yet, plain
containers, and in the place of anything else an object that does nothing.
"""

import pathlib
import pickle
import zipfile
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from dmmd_jax.networks.weights import ALLOWED, STORAGES, WeightsError, read_torch

_STORAGES = {**STORAGES, "torch.BFloat16Storage": "bfloat16"}
_FLOATS = ("<f4", "<f2", "bfloat16")
_TENSORS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")

# Name to shape, dtype and a function that reads it.
Tensors = dict[str, tuple[tuple[int, ...], np.dtype, Callable[[], np.ndarray]]]


def read(path: pathlib.Path, weights: str) -> Tensors:
  """The tensors of a state dict, or of a checkpoint with one, in order.

  `weights` are "raw", or "ema": the average of a checkpoint of Lightning that has one, a list
  without names in the order of the parameters. Raises `WeightsError` for any other file.
  """
  try:
    if not zipfile.is_zipfile(path):
      return {n: _of_array(n, x) for n, x in read_torch(path).items()}
    with zipfile.ZipFile(path) as archive:
      (data,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
      with archive.open(data) as pickled:
        contents = _Unpickler(pickled, path, data.removesuffix("data.pkl")).load()
    tensors = _state_dict(contents)
    if weights == "ema" and tensors is not contents and contents.get("ema"):
      tensors = _averaged(contents["ema"]["shadow_params"], tensors)
    return {name: x.checked(name) for name, x in tensors.items()}
  except WeightsError:
    raise
  except OSError as error:
    raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
  except Exception as error:  # broken pickles raise nearly anything
    reason = str(error) or type(error).__name__
    raise WeightsError(f"{path} is no checkpoint of PyTorch or Lightning: {reason}") from error


def _state_dict(contents: Any) -> dict[str, "_Lazy"]:
  if not isinstance(contents, dict):
    raise ValueError(f"it holds a {type(contents).__name__}, not a dict")
  tensors = contents.get("state_dict", contents)
  if not isinstance(tensors, dict):
    raise ValueError(f"its state_dict is a {type(tensors).__name__}, not a dict")
  for name, x in tensors.items():
    if not isinstance(name, str) or not isinstance(x, _Lazy):
      raise ValueError(f"{name} in it is a {type(x).__name__}, not a tensor")
  return tensors


def _of_array(name: str, x: np.ndarray) -> tuple:
  if x.dtype not in ("float32", "float16"):
    raise ValueError(f"{name} is of type {x.dtype}, expected float32 or float16")
  return x.shape, x.dtype, lambda: x


def _averaged(average: Any, raw: dict[str, "_Lazy"]) -> dict[str, "_Lazy"]:
  """Names for an average, which has parameters only: those of the network, without buffers."""
  is_buffer = lambda name: name.endswith("rotary_emb.inv_freq") or "." not in name
  names = [name for name in raw if not is_buffer(name) and not name.startswith("teacher")]
  average = list(average)
  shapes = [x.shape for x in average]
  if shapes != [raw[name].shape for name in names]:
    raise ValueError(
      f"its average has {len(average)} tensors, which are not the {len(names)} of its state_dict in"
      " their order: give --weights=raw"
    )
  return raw | dict(zip(names, average, strict=True))


class _Lazy(NamedTuple):
  """A view of a storage in an archive."""

  path: pathlib.Path
  member: str
  dtype: str
  size: int
  offset: int = 0
  shape: tuple[int, ...] = ()
  strides: tuple[int, ...] = ()

  def checked(self, name: str) -> tuple:
    """What `Tensors` has of it."""
    if self.dtype not in _FLOATS:
      raise ValueError(f"{name} is of type {self.dtype}, expected float32, float16 or bfloat16")
    return self.shape, np.dtype(self.dtype), self.read

  def read(self) -> np.ndarray:
    """The numbers; the archive knows their checksum. Raises `WeightsError` for damage."""
    try:
      with zipfile.ZipFile(self.path) as archive:
        storage = np.frombuffer(archive.read(self.member), self.dtype)
      if len(storage) != self.size:
        raise ValueError(f"{len(storage)} of {self.size} numbers")
      width = storage.itemsize
      strides = [stride * width for stride in self.strides]
      # NumPy checks that the view lies in the storage.
      return np.ndarray(self.shape, storage.dtype, storage, self.offset * width, strides)
    except (ValueError, TypeError, KeyError, OSError, zipfile.BadZipFile, zlib.error) as error:
      raise WeightsError(
        f"{self.path} is damaged at {self.member}: {error}; get it again"
      ) from error


class _Nothing:
  """Stands for an object of any other class, and does nothing that a pickle asks of it."""

  def __new__(cls, *_, **__):
    return super().__new__(cls)

  def __init__(self, *_, **__):
    pass

  def __setstate__(self, _):
    pass

  def __setitem__(self, *_):
    pass

  def append(self, _):
    pass

  def extend(self, _):
    pass

  def add(self, _):
    pass

  def update(self, *_):
    pass

  def __call__(self, *_, **__):
    return _Nothing()

  def __hash__(self):
    return id(self)


class _Unpickler(pickle.Unpickler):
  def __init__(self, file, path: pathlib.Path, folder: str):
    super().__init__(file)
    self._path, self._folder = path, folder

  def find_class(self, module: str, name: str) -> Any:
    full_name = f"{module}.{name}"
    if full_name in _TENSORS:
      return _view
    if full_name in _STORAGES:
      return _STORAGES[full_name]
    known = full_name.startswith("collections.") or full_name.endswith("_rebuild_parameter")
    return ALLOWED[full_name] if known and full_name in ALLOWED else _Nothing

  def persistent_load(self, pid: tuple) -> Any:
    kind, dtype, key, _, size, *_ = pid
    if kind != "storage" or not isinstance(dtype, str):
      return _Nothing()
    return _Lazy(self._path, f"{self._folder}data/{key}", dtype, size)


def _view(storage: Any, offset: int, shape: tuple, strides: tuple, *_) -> Any:
  if not isinstance(storage, _Lazy):
    return _Nothing()
  return storage._replace(offset=offset, shape=tuple(shape), strides=tuple(strides))
