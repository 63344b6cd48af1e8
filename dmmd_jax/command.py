"""What the commands share: one-line errors, and samples from .npy files. Pure NumPy."""

import argparse
import os
import sys
from typing import NoReturn

import numpy as np


class Parser(argparse.ArgumentParser):
  """An argument parser whose errors are one line, with exit code 2."""

  def error(self, message: str) -> NoReturn:
    fail(self.prog, message)


def fail(prog: str, message: str) -> NoReturn:
  """Ends the program with a message in one line, and exit code 2."""
  print(f"{prog.removeprefix('python -m ')}:", " ".join(message.split()), file=sys.stderr)
  sys.exit(2)


def keep_compiled_programs() -> None:
  """Lets the next run of the same program start sooner; to be called before jax is imported."""
  os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/dmmd_jax"))


def load_array(path: str) -> np.ndarray:
  """The one array of a .npy file. Raises `ValueError` where there is none."""
  try:
    array = np.load(path, allow_pickle=False)
  except (OSError, ValueError, EOFError) as error:
    raise ValueError(
      f"cannot read {path}: {error}; expected a .npy file that numpy.save wrote"
    ) from error
  if not isinstance(array, np.ndarray):
    raise ValueError(f"{path} holds several arrays; expected a .npy file with one")
  return array
