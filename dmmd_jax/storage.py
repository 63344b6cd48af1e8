"""Tells a disk that is full, read-only, away or in disorder from a mistake in the program."""

import errno
import os
import re
from collections.abc import Iterator

from etils import epath

_WILL_PASS = [
  errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
  errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EREMOTEIO,
]  # fmt: skip
# Something of the user's lies where a file or a folder belongs.
_IN_THE_WAY = [errno.EISDIR, errno.ENOTDIR, errno.EEXIST]
_SAID = {os.strerror(number).lower(): number for number in _WILL_PASS}


def trouble(error: BaseException, workdir: epath.Path) -> str:
  """One line if `error` comes from the storage, else "".

  Of orbax, tensorstore and tensorflow only the words of the operating system arrive here.
  """
  for cause in _chain(error):
    words = next((words for words in _SAID if words in str(cause).lower()), None)
    if getattr(cause, "errno", None) in _WILL_PASS + _IN_THE_WAY or words:
      path = str(getattr(cause, "filename", None) or _path_in(str(cause)) or workdir)
      path = path.partition(".orbax-checkpoint-tmp")[0]
      said = os.strerror(_SAID[words] if words else cause.errno)
      return (
        f"cannot use {path}: {said}. Once that is mended the same command goes on from the last"
        " checkpoint"
      )
  return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
  while error:
    yield error
    error = error.__cause__ or error.__context__


def _path_in(text: str) -> str:
  """The last path between quotation marks."""
  found = re.findall(r"""["']((?:/|gs://)[^"']+)["']""", text)
  return found[-1] if found else ""
