"""Tensors in the files of others, by their names, each read when it is asked for."""

import json
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np

from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.teachers import checkpoint_file

_INDEX = "model.safetensors.index.json"
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_EXPECTED = (
  "expected a folder with config.json and safetensors files as on the Hugging Face hub, a .ckpt of"
  " Lightning, or a state dict of PyTorch"
)


class Tensor(NamedTuple):
  """A tensor in a file: what it is like, and `read()`, which gives it."""

  shape: tuple[int, ...]
  dtype: np.dtype
  read: Callable[[], np.ndarray]


class Source(NamedTuple):
  """What was found: tensors by name in the order of the file, `config.json`, and files to hash."""

  tensors: dict[str, Tensor]
  config: dict
  files: list[pathlib.Path]


def open_source(path: pathlib.Path, weights: str = "ema") -> Source:
  """Looks into a folder or file, and reads no tensor yet.

  `weights` are those of a checkpoint of Lightning, "ema" (where it has any) or "raw". Raises
  `WeightsError` for what is none of the kinds of files that are known.
  """
  if path.is_dir():
    return _open_folder(path)
  if not path.is_file():
    raise WeightsError(f"there is no {path}; {_EXPECTED}")
  if path.suffix == ".safetensors":
    return Source(_read_header(path), _read_config(path.with_name("config.json")), [path])
  tensors = checkpoint_file.read(path, weights)
  return Source({n: Tensor(*t) for n, t in tensors.items()}, {}, [path])


def _open_folder(folder: pathlib.Path) -> Source:
  config = _read_config(folder / "config.json")
  files = sorted(folder.glob("*.safetensors"))
  others = [folder / "pytorch_model.bin"]
  if not files and others[0].is_file():
    return open_source(others[0])._replace(config=config)
  if not files:
    raise WeightsError(f"{folder} has no safetensors; {_EXPECTED}")
  tensors, found_in = {}, {}
  for file in files:
    for name, tensor in _read_header(file).items():
      if name in tensors:
        raise WeightsError(
          f"{name} is in {found_in[name]} and in {file.name}; expected each tensor once: take the"
          " files of another model away"
        )
      tensors[name], found_in[name] = tensor, file.name
  _check_index(folder / _INDEX, found_in)
  return Source(tensors, config, files)


def _check_index(index: pathlib.Path, found_in: dict[str, str]) -> None:
  """Many files are all there, and no others, if an index lists the tensors of each."""
  if not index.is_file():
    if len({*found_in.values()}) > 1:
      raise WeightsError(f"there is no {index}, which says what is in which file; get it, too")
    return
  try:
    listed = json.loads(index.read_text())["weight_map"]
    listed = {str(name): str(file) for name, file in listed.items()}
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
    raise WeightsError(f"{index} is not an index of tensors; get it again") from error
  absent = sorted({*listed.values()} - {*found_in.values()})
  if absent:
    raise WeightsError(f"{index.parent} has no {absent[0]}, which {_INDEX} lists; get it, too")
  for name in sorted(listed.keys() | found_in.keys()):
    if listed.get(name) != found_in.get(name):
      there, expected = found_in.get(name, "no file"), listed.get(name, "no file")
      raise WeightsError(f"{name} is in {there}, and {_INDEX} says in {expected}; get them again")


def _read_header(file: pathlib.Path) -> dict[str, Tensor]:
  """The tensors of a file, which the library checks to be whole."""
  from safetensors import SafetensorError, safe_open

  tensors = {}
  try:
    with safe_open(file, framework="np") as opened:
      for name in opened.offset_keys():
        one = opened.get_slice(name)
        dtype = _DTYPES.get(one.get_dtype())
        if dtype is None:
          raise WeightsError(
            f"{name} in {file} is of type {one.get_dtype()}; expected one of {', '.join(_DTYPES)}"
          )
        tensors[name] = Tensor(tuple(one.get_shape()), np.dtype(dtype), _reader(file, name))
  except (SafetensorError, OSError) as error:
    raise WeightsError(f"cannot read {file}: {error}; get it again") from error
  return tensors


def _reader(file: pathlib.Path, name: str) -> Callable[[], np.ndarray]:
  def read() -> np.ndarray:
    from safetensors import safe_open

    # Opened for each tensor: memory that a file is mapped to is given back when it is closed.
    with safe_open(file, framework="np") as opened:
      return opened.get_tensor(name)

  return read


def _read_config(path: pathlib.Path) -> dict:
  """The contents of a `config.json`, empty where there is none."""
  if not path.is_file():
    return {}
  try:
    config = json.loads(path.read_text())
  except (ValueError, OSError, RecursionError) as error:
    raise WeightsError(f"cannot read {path}: {error}; get it again") from error
  if not isinstance(config, dict):
    raise WeightsError(f"{path} holds a {type(config).__name__}; expected an object")
  return config
