"""One run at a time in a workdir: a lock file, which a sign of life renews while the run goes on.

A lock of a process of this machine is dead if the process is. Of one that cannot be seen (another
host, another container) nothing is known but that its lock changes every few seconds while it
lives. No clocks are compared, and nothing relies on file locks, which not every file system has.
"""

import contextlib
import fcntl
import json
import os
import pathlib
import threading
import time
import uuid
from collections.abc import Iterator

from etils import epath

from dmmd_jax import lock_holder, signals
from dmmd_jax.config import ConfigError

_BEAT_SECONDS = 5.0
# A lock that shows no sign of life for so long is dead.
_PATIENCE_SECONDS = 60.0


class _ChangedError(Exception):
  """The lock is not what it was when it was read."""


@contextlib.contextmanager
def hold(workdir: epath.Path) -> Iterator[None]:
  """Within it, `workdir` is this process's alone; takes over the lock of a dead one.

  Makes the folder where there is none, and removes it where it stays empty. Raises `ConfigError`
  where another run holds it, `OSError` where it cannot be written. A run whose lock another one has
  taken meanwhile, since this machine was asleep or cut off, ends at once, with exit code 2.
  """
  made = _make(workdir)
  name = os.fspath(workdir)
  entry = _Blob(name) if name.startswith("gs://") else _File(pathlib.Path(workdir))
  try:
    version = _take(entry, workdir)
    beating = _Beat(entry, version, workdir)
    forget = signals.at_end(beating.release)
    try:
      yield
    finally:
      forget()
      beating.release()
  finally:
    with contextlib.suppress(OSError):  # not empty
      for folder in made:
        os.rmdir(folder)


def _make(workdir: epath.Path) -> list[epath.Path]:
  """The folders that had to be made, innermost first."""
  if os.fspath(workdir).startswith("gs://"):
    return []
  absent = [folder for folder in (workdir, *workdir.parents) if not folder.exists()]
  workdir.mkdir(parents=True, exist_ok=True)
  return absent


def _take(entry: "_File | _Blob", workdir: epath.Path) -> object:
  """Writes our name into the lock, and returns its version."""
  text = json.dumps(lock_holder.identity())
  while True:
    found = entry.read()
    if found:
      _wait_until_dead(entry, found, workdir)
    with contextlib.suppress(_ChangedError):  # another one was faster: look at it anew
      return entry.write(text, found[1] if found else None)


def _wait_until_dead(entry: "_File | _Blob", found: tuple[str, object], workdir) -> None:
  """Raises `ConfigError` as soon as the holder is known to live."""
  try:
    holder = json.loads(found[0])
    who = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    here = lock_holder.machine()
    is_visible = here["boot"] is not None and here.items() <= holder.items()
  except (ValueError, TypeError, KeyError, AttributeError):  # damaged, or being written
    who, is_visible = "an unknown process", False
  if is_visible:
    alive = lock_holder.is_alive(holder)
  else:
    print(
      f"{workdir} is locked by {who}; waiting up to {_PATIENCE_SECONDS:.0f} s for a sign of life"
    )
    alive = _changes(entry, found[1])
  if alive:
    raise ConfigError(
      f"workdir {workdir} is in use by {who}; wait for that run, stop it, or choose another"
      " --workdir"
    )


def _changes(entry: "_File | _Blob", version: object) -> bool:
  deadline = time.monotonic() + _PATIENCE_SECONDS
  while time.monotonic() < deadline:
    time.sleep(min(1.0, _PATIENCE_SECONDS / 10))
    found = entry.read()
    if found is None:
      return False
    if found[1] != version:
      return True
  return False


class _Beat:
  """Renews the lock; ends the program when it is no longer ours."""

  def __init__(self, entry: "_File | _Blob", version: object, workdir: epath.Path):
    self._entry, self._version, self._workdir = entry, version, workdir
    self._is_ours = True
    self._finished = threading.Event()
    self._thread = threading.Thread(target=self._run, daemon=True)
    self._thread.start()

  def release(self) -> None:
    self._finished.set()
    if self._is_ours:
      self._thread.join()
      with contextlib.suppress(Exception):  # another one will find it dead
        self._entry.remove(self._version)

  def _run(self) -> None:
    while not self._finished.wait(_BEAT_SECONDS):
      try:
        self._version = self._entry.touch(self._version)
      except _ChangedError:
        self._is_ours = False
        signals.end(
          f"dmmd_jax: another run has taken over {self._workdir}, where this one had shown no sign"
          " of life; this one ends, and leaves the workdir to it",
          2,
        )
      except Exception:  # the storage is away: the next beat may succeed, and the run finds out
        continue


class _File:
  """The lock in a folder; a version is its text with the time of its last change."""

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / "lock"

  def read(self) -> tuple[str, object] | None:
    return self._read(self._path)

  def write(self, text: str, version: object) -> object:
    draft = self._path.with_name(f"lock.{uuid.uuid4().hex}")
    draft.write_text(text)
    try:
      with self._alone():
        if version:
          self._replace(draft, version)
        else:
          self._create(draft, text)
    finally:
      draft.unlink(missing_ok=True)
    return text

  def touch(self, version: object) -> object:
    self._check(version)
    os.utime(self._path)
    return version

  def remove(self, version: object) -> None:
    with self._alone():
      self._check(version)
      self._path.unlink()

  def _replace(self, draft: pathlib.Path, version: object) -> None:
    """Puts `draft` in the place of a dead lock; the place is never empty."""
    found = self.read()
    if found is None or found[1] != version:
      raise _ChangedError
    os.replace(draft, self._path)

  def _create(self, draft: pathlib.Path, text: str) -> None:
    try:
      os.link(draft, self._path)  # at once, and only if there is none
    except FileExistsError as error:
      raise _ChangedError from error
    except OSError:  # a file system without links
      try:
        with self._path.open("x") as file:
          file.write(text)
      except FileExistsError as error:
        raise _ChangedError from error

  @contextlib.contextmanager
  def _alone(self) -> Iterator[None]:
    """Keeps others of this machine from reading a lock and replacing it at the same time.

    Where the file system does not do this, as NFS, the one that is replaced finds out at its next
    beat.
    """
    folder = os.open(self._path.parent, os.O_RDONLY)
    try:
      with contextlib.suppress(OSError):
        fcntl.flock(folder, fcntl.LOCK_EX)
      yield
    finally:
      os.close(folder)

  def _check(self, text: object) -> None:
    found = self.read()
    if found is None or found[0] != text:
      raise _ChangedError

  @staticmethod
  def _read(path: pathlib.Path) -> tuple[str, object] | None:
    try:
      with path.open(errors="replace") as file:  # opening asks a server for what is new
        text = file.read()
        return text, (text, os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
      return None
    except IsADirectoryError as error:
      raise ConfigError(f"{path} is a folder; expected the lock of a run: move it away") from error


class _Blob:
  """The lock in a bucket, where nothing is written over but the generation that was read."""

  def __init__(self, workdir: str):
    from google.api_core import exceptions
    from google.cloud import storage

    self._errors = exceptions
    bucket, _, folder = workdir.removeprefix("gs://").partition("/")
    self._bucket, self._name = storage.Client().bucket(bucket), f"{folder}/lock".lstrip("/")
    self._text = ""

  def read(self) -> tuple[str, object] | None:
    blob = self._bucket.blob(self._name)
    try:
      text = blob.download_as_text()
      blob.reload()
    except self._errors.NotFound:
      return None
    return text, blob.generation

  def write(self, text: str, version: object) -> object:
    self._text = text
    blob = self._bucket.blob(self._name)
    try:
      blob.upload_from_string(text, if_generation_match=version or 0)
    except self._errors.PreconditionFailed as error:
      found = self.read()
      if found is None or found[0] != text:
        raise _ChangedError from error
      return found[1]  # ours all the same: the answer was lost, and the upload repeated
    return blob.generation

  def touch(self, version: object) -> object:
    return self.write(self._text, version)

  def remove(self, version: object) -> None:
    self._bucket.blob(self._name).delete(if_generation_match=version)
