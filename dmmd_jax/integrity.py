"""Whether files are still as they were left. Pure Python.

A JSON file holds its own checksum. Other files are known by a note of each: its sha256 where it is
small, its size in bytes where something else vouches for the contents.
"""

import functools
import hashlib
import json
from collections.abc import Iterable
from typing import Any

from etils import epath

from dmmd_jax.workdir import sizes, write_whole

# A note per file, by its path in a folder.
Notes = dict[str, int | str]


def by_size(folder: epath.Path, part: str) -> Notes:
  """Notes of all files of `folder` that lie below its subfolder `part`."""
  return {name: size for name, size in sizes(folder).items() if name.startswith(f"{part}/")}


def by_contents(folder: epath.Path, names: Iterable[str]) -> Notes:
  """Notes of the files `names` of `folder`."""
  return {name: sha256(folder / name) for name in names}


def find_damage(folder: epath.Path, notes: Notes) -> str:
  """The first of the noted files that is not as it was left, in words; "" where all are."""
  found = sizes(folder)
  for name, note in notes.items():
    if name not in found:
      return f"{name} is missing"
    if isinstance(note, int) and found[name] != note:
      return f"{name} has {found[name]} bytes instead of {note}"
    if isinstance(note, str) and sha256(folder / name) != note:
      return f"{name} has been changed"
  return ""


def sha256(path: epath.Path) -> str:
  """Of the bytes of a file."""
  total = hashlib.sha256()
  with path.open("rb") as file:
    for part in iter(functools.partial(file.read, 1 << 20), b""):
      total.update(part)
  return total.hexdigest()


def write_json(path: epath.Path, value: dict[str, Any]) -> None:
  """Writes a file that tells damage: all of it, or nothing."""
  write_whole(path, json.dumps(value | {"checksum": checksum(value)}, indent=1) + "\n")


def read_json(path: epath.Path) -> dict[str, Any] | None:
  """The contents of a file that `write_json` made; None where it is missing or damaged."""
  try:
    value = json.loads(path.read_text())
    return value if value.pop("checksum") == checksum(value) else None
  except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
    return None
  except (ValueError, AttributeError, KeyError, TypeError, RecursionError):  # not what was written
    return None


def checksum(value: dict[str, Any]) -> str:
  """32 hexadecimal digits of what JSON can hold."""
  return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
