"""Weights from files: what is wrong with them, and PyTorch's read without PyTorch."""

import collections
import hashlib
import pathlib
import pickle
import re
import zipfile
from typing import Any, BinaryIO

import numpy as np


class WeightsError(Exception):
  """A file or folder without usable weights; the message says what was found and what expected."""


# A legacy file starts with it.
_MAGIC = 0x1950A86A20F9469CFC6C

# Types of storages, and what NumPy calls the type of their numbers.
STORAGES = {
  "torch.DoubleStorage": "<f8",
  "torch.FloatStorage": "<f4",
  "torch.HalfStorage": "<f2",
  "torch.LongStorage": "<i8",
  "torch.IntStorage": "<i4",
  "torch.ShortStorage": "<i2",
  "torch.CharStorage": "i1",
  "torch.ByteStorage": "u1",
  "torch.BoolStorage": "?",
}


def read_torch(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """The tensors of a state dict that `torch.save` wrote, in either of its formats, by name.

  Nothing that the file says is run: a pickle may ask for tensors of numbers and nothing else. A
  name such as `weights-6726825d.pth` says how the SHA-256 of the file begins, as in PyTorch's hub.
  Raises `WeightsError` for any other file.
  """
  try:
    with open(path, "rb") as file:
      _check_digest(file, pathlib.Path(path).name)
      is_zip = file.read(2) == b"PK"
      file.seek(0)
      tensors = _read_zip(file) if is_zip else _read_legacy(file)
    if not isinstance(tensors, dict):
      raise pickle.UnpicklingError(f"a {type(tensors).__name__}, not a dict")
    for name, tensor in tensors.items():
      if not isinstance(tensor, np.ndarray):
        raise pickle.UnpicklingError(f"{name} is a {type(tensor).__name__}, not a tensor")
  except WeightsError:
    raise
  except OSError as error:
    raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
  except Exception as error:  # broken pickles raise nearly anything
    reason = str(error) or type(error).__name__
    raise WeightsError(f"{path} is not a state dict of PyTorch: {reason}") from error
  return tensors


def check_finite(path: str | pathlib.Path, tensors: dict[str, np.ndarray]) -> None:
  """Raises `WeightsError` where a tensor has a number that is none: measures would be NaN too."""
  for name, tensor in tensors.items():
    if not np.isfinite(tensor.astype(np.float32)).all():
      raise WeightsError(f"{path} has NaN or infinity in {name}; get the file again")


def _check_digest(file: BinaryIO, name: str) -> None:
  announced = re.search(r"-([0-9a-f]{8,})\.[^.]*$", name)
  if announced:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(announced[1]):
      raise WeightsError(
        f"{name} is damaged, its SHA-256 begins with {digest[:8]}; get the file again"
      )
    file.seek(0)


def _read_zip(file: BinaryIO) -> Any:
  with zipfile.ZipFile(file) as archive:
    (data,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
    with archive.open(data) as pickled:
      unpickler = _Unpickler(pickled)
      tensors = unpickler.load()
    for key, storage in unpickler.storages.items():
      _fill(storage, archive.read(f"{data.removesuffix('data.pkl')}data/{key}"))
  return tensors


def _read_legacy(file: BinaryIO) -> Any:
  """Pickles one after the other: magic, version, system, tensors, keys; then the data by key."""
  magic, _, _ = (_Unpickler(file).load() for _ in range(3))
  if magic != _MAGIC:
    raise pickle.UnpicklingError("it does not start as one")
  unpickler = _Unpickler(file)
  tensors = unpickler.load()
  keys = _Unpickler(file).load()
  if set(keys) != set(unpickler.storages):
    raise pickle.UnpicklingError("data are missing")
  for key in keys:
    file.read(8)  # the length again
    storage = unpickler.storages[key]
    _fill(storage, file.read(storage.nbytes))
  return tensors


def _fill(storage: np.ndarray, data: bytes) -> None:
  if len(data) != storage.nbytes:
    raise pickle.UnpicklingError(f"{len(data)} bytes where {storage.nbytes} were announced")
  storage[:] = np.frombuffer(data, storage.dtype)


class _Unpickler(pickle.Unpickler):
  """Makes tensors that view `storages`, empty ones: their data come after the pickle."""

  def __init__(self, file):
    super().__init__(file)
    self.storages = {}

  def find_class(self, module: str, name: str) -> Any:
    full_name = f"{module}.{name}"
    if full_name not in ALLOWED:
      raise pickle.UnpicklingError(f"it asks for {full_name}")
    return ALLOWED[full_name]

  def persistent_load(self, pid: tuple) -> np.ndarray:
    kind, dtype, key, _, size, *view = pid
    if kind != "storage" or dtype not in STORAGES.values() or any(view):
      raise pickle.UnpicklingError(f"it asks for a {kind} of {dtype}")
    if key not in self.storages:
      self.storages[key] = np.empty((size,), dtype)
    return self.storages[key]


def _tensor(storage, offset, shape, strides, *_) -> np.ndarray:
  """Checks, by NumPy, that the view lies in the storage."""
  width = storage.itemsize
  strides = [stride * width for stride in strides]
  return np.ndarray(shape, storage.dtype, storage, offset * width, strides)


# Types of storages are given as text, which a pickle can neither call nor change.
ALLOWED = {
  "collections.OrderedDict": collections.OrderedDict,
  "torch._utils._rebuild_tensor": _tensor,
  "torch._utils._rebuild_tensor_v2": _tensor,
  "torch._utils._rebuild_parameter": lambda tensor, *_: tensor,
  **STORAGES,
}
