"""What the commands share: one-line errors, numbers in a range, arrays, runs. No jax."""

import argparse
import math
import os
import pathlib
import signal
import sys
import tempfile
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
  """An argument parser of a module, whose errors are one line, with exit code 2.

  It goes by the name that the module was called by, `python -m dmmd_jax NAME` or its own.
  """

  def __init__(self, module: str, description: str):
    own = f"python -m {module}"
    called = sys.argv[0] if sys.argv[0].startswith("python -m ") else own
    super().__init__(prog=called, description=description)

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
  """Runs a command; Ctrl-C ends it in one line with 130, a reader that has left in none.

  A character that the terminal does not know is printed as `?`.
  """
  sys.stdout.reconfigure(errors="replace")
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


def hide_logs_of_libraries() -> None:
  """Lets tensorflow and XLA print errors only; to be called before any of them is imported.

  A variable that the user has set stays as it is.
  """
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
  os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # announced at every level where it is on


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
    if "pickle" in reason:  # NumPy's guess of what it does not know, and its advice is not ours
      reason = "it is text or of Python objects"
    raise ValueError(f"cannot read {path}: {reason}; {expected}") from error
  found = f"several arrays ({', '.join(names[:4])})" if names else "no array"
  raise ValueError(f"{path} holds {found}; expected one, or one that is named tokens")


def find_folder(path: str, expected: str) -> epath.Path:
  """A folder, here or in a bucket. Raises `ValueError` where there is none."""
  try:
    folder = workdirs.locate(path)
  except ConfigError as error:
    raise ValueError(str(error)) from error
  if not folder.is_dir():
    found = "is a file" if folder.exists() else "does not exist"
    raise ValueError(f"{path} {found}; expected {expected}")
  return folder


def find_run(path: str) -> epath.Path:
  """The folder of a run. Raises `ValueError` where there is none."""
  return find_folder(path, "the workdir of a run")


def find_model(folder: epath.Path, name: str, unfinished: bool = False) -> records.Source:
  """The model `name` of a run. Raises `ValueError` where there is none."""
  try:
    return records.find_model(folder, name, unfinished)
  except ConfigError as error:
    raise ValueError(str(error)) from error


def find_text_model(folder: epath.Path, name: str) -> records.Source:
  """The model `name` of a run on text. Raises `ValueError` where there is none."""
  source = find_model(folder, name)
  dataset = source.config.dataset
  if "alphabet" not in dataset:
    raise ValueError(f"{folder} is a run on {dataset.name}; expected one on text")
  return source


def find_output(name: str, endings: tuple[str, ...], what: str) -> epath.Path:
  """A file to write `what` to, by its name. Raises `ValueError` where it cannot be."""
  if not name.lower().endswith(endings):
    raise ValueError(f"--out is {name}; {what} go to a file that ends in {' or '.join(endings)}")
  if "://" in name:
    try:
      workdirs.locate(name.rpartition("/")[0], write=True)
    except ConfigError as error:
      raise ValueError(f"--out is {name}: {error}") from error
    return epath.Path(name)
  file = pathlib.Path(os.path.expanduser(name))
  if file.exists() and not file.is_file():
    raise ValueError(f"--out is {name}, which is no file; name one that may be written")
  if not file.parent.is_dir():
    raise ValueError(f"--out is {name}; there is no folder {file.parent}: make it first")
  try:
    tempfile.TemporaryFile(dir=file.parent).close()
    if file.exists():
      file.open("r+b").close()
  except OSError as error:
    raise ValueError(f"--out is {name}, which cannot be written ({error.strerror})") from error
  return epath.Path(file)


def pad(rows: list[list[str]]) -> list[list[str]]:
  """The cells of a table, all lines of one length, as wide as their columns."""
  sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [[f"{cell:<{size}}" for cell, size in zip(row, sizes, strict=True)] for row in rows]
