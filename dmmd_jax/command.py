"""What the commands share: one-line errors, numbers in a range, arrays, runs. No jax."""

import argparse
import math
import os
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

import numpy as np
from etils import epath

from dmmd_jax import records
from dmmd_jax import workdir as workdirs
from dmmd_jax.config import ConfigError

# Seeds that jax.random.key tells apart.
SEEDS = (0, 2**32 - 1)


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line, with exit code 2."""

  def error(self, message: str) -> NoReturn:
    fail(self.prog, message)


def number(kind: type, low: float, high: float) -> Callable[[str], int | float]:
  """The `type` of an argument: an int or float from `low` to `high`, and never NaN."""

  def parse(text: str) -> int | float:
    try:
      value = kind(text)
    except ValueError:
      value = math.nan
    if not low <= value <= high:
      name = "a whole number" if kind is int else "a number"
      raise argparse.ArgumentTypeError(f"found {text!r}; expected {name} from {low} to {high}")
    return value

  return parse


def fail(prog: str, message: str) -> NoReturn:
  """Ends the program with a message in one line, and exit code 2."""
  print(f"{prog.removeprefix('python -m ')}:", one_line(message), file=sys.stderr)
  sys.exit(2)


def one_line(message: str) -> str:
  r"""A message without line breaks, and without the `\\n` and `\\'` of other people's `repr`."""
  for escaped, plain in (("\\n", " "), ("\\r", " "), ("\\t", " "), ("\\'", "'"), ('\\"', '"')):
    message = message.replace(escaped, plain)
  return " ".join(message.split())


def run(main: Callable[[], None]) -> None:
  """Runs a command; Ctrl-C ends it in one line with 130, a reader that has left in none."""
  try:
    main()
    sys.stdout.flush()
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    sys.exit(128 + signal.SIGINT)
  except BrokenPipeError:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
    sys.exit(128 + signal.SIGPIPE)


def keep_compiled_programs() -> None:
  """Lets the next run of the same program start sooner; to be called before jax is imported."""
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/dmmd_jax"))


def load_array(path: str) -> np.ndarray:
  """The array of a .npy file, or of an .npz file the one array or that named `tokens`.

  Raises `ValueError` where there is none.
  """
  file = pathlib.Path(os.path.expanduser(path))
  expected = "expected a .npy or .npz file that NumPy wrote"
  if not file.is_file():
    found = "is not a file" if file.exists() else "does not exist"
    raise ValueError(f"{path} {found}; {expected}")
  try:
    array = np.load(file, allow_pickle=False)
    if isinstance(array, np.ndarray):
      return array
    with array as arrays:
      names = arrays.files
      name = "tokens" if "tokens" in names else names[0] if len(names) == 1 else None
      if name and not isinstance(arrays[name], np.ndarray):
        raise ValueError(f"{name} in it is no array")
      if name:
        return arrays[name]
  except Exception as error:  # broken files raise nearly anything
    reason = str(error) or type(error).__name__
    raise ValueError(f"cannot read {path}: {reason}; {expected}") from error
  found = f"several arrays ({', '.join(names[:4])})" if names else "no array"
  raise ValueError(f"{path} holds {found}; expected one, or one that is named tokens")


def find_run(path: str) -> epath.Path:
  """The folder of a run. Raises `ValueError` where there is none."""
  try:
    folder = workdirs.locate(path)
  except ConfigError as error:
    raise ValueError(str(error)) from error
  if not folder.is_dir():
    found = "is a file" if folder.exists() else "does not exist"
    raise ValueError(f"{path} {found}; expected the workdir of a run")
  return folder


def find_model(folder: epath.Path, name: str, unfinished: bool = False) -> records.Source:
  """The model `name` of a run on text. Raises `ValueError` where there is none."""
  try:
    source = records.find_model(folder, name, unfinished)
  except ConfigError as error:
    raise ValueError(str(error)) from error
  dataset = source.config.dataset
  if "alphabet" not in dataset:
    raise ValueError(f"{folder} is a run on {dataset.name}; expected one on text")
  return source
