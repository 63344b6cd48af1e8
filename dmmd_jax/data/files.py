"""The files below a folder, for data of one's own."""

import errno
import os
import pathlib
from collections.abc import Iterator


def expand(path: str) -> pathlib.Path:
  """A path with `~` for the home folder."""
  return pathlib.Path(os.path.expanduser(path))


def find_files(root: pathlib.Path) -> list[pathlib.Path]:
  """A file, or those of a folder and below, in order; hidden ones are left out.

  Links are followed. Raises `OSError`, with the name, for whatever cannot be read: files that are
  left out without a word would change a result.
  """
  if root.is_file():
    return [root]
  if not root.is_dir():
    found = "neither a file nor a folder" if root.exists() else "no such file or folder"
    raise OSError(errno.ENOENT, found, str(root))
  return sorted(map(pathlib.Path, _walk(str(root), ())))


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
  place = os.path.realpath(folder)
  if place in above:
    raise OSError(errno.ELOOP, "a link to a folder that it lies in", folder)
  with os.scandir(folder) as entries:
    for entry in entries:
      if entry.name.startswith("."):
        continue
      if entry.is_dir():
        yield from _walk(entry.path, (*above, place))
      elif entry.is_file():
        yield entry.path
      else:
        found = "a link to nothing" if entry.is_symlink() else "neither a file nor a folder"
        raise OSError(errno.EINVAL, found, entry.path)
