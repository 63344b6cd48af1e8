"""Where a run keeps what it leaves: a folder, or a bucket of Google Cloud Storage. Pure Python."""

import logging
import os
import tempfile

from etils import epath

from dmmd_jax.config import ConfigError

# What orbax and the phases ask of a bucket.
_READ = ("storage.buckets.get", "storage.objects.get", "storage.objects.list")
_WRITE = ("storage.objects.create", "storage.objects.delete")


def locate(name: str, write: bool = False) -> epath.Path:
  """A workdir by its name: a folder, or `gs://bucket/folder` of a bucket that may be used.

  Raises `ConfigError` for any other, where access is denied, and for a folder that cannot be, or
  with `write` cannot be written to.
  """
  scheme, is_url, rest = name.partition("://")
  if is_url and (scheme != "gs" or rest.startswith("/") or not rest):
    raise ConfigError(f"workdir {name} is unknown storage; expected a folder or gs://bucket/folder")
  folder = epath.Path(name) if is_url else epath.Path(os.path.expanduser(name))
  if is_url:
    _check_bucket(rest.split("/")[0], folder, _READ + _WRITE if write else _READ)
  else:
    _check_folder(folder, write)
  return folder


def _check_folder(folder: epath.Path, write: bool) -> None:
  """Asks now what would fail at the first file."""
  if "\0" in os.fspath(folder):
    raise ConfigError(f"workdir {os.fspath(folder)!r} is no path; name a folder")
  folder = folder.absolute()
  nearest = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
  if not nearest.is_dir():
    what = "is a file" if nearest == folder else f"is below {nearest}, which is a file"
    raise ConfigError(f"workdir {folder} {what}; name a folder")
  try:
    os.listdir(nearest)
    if write:
      tempfile.TemporaryFile(dir=nearest).close()
  except OSError as error:
    what = "written to" if write else "read"
    raise ConfigError(
      f"{nearest} cannot be {what} ({error.strerror}); choose another workdir, or change its rights"
    ) from error


def write_whole(path: epath.Path, text: str) -> None:
  """Writes a file so that whoever reads it finds all of it, or what was there before."""
  if os.fspath(path).startswith("gs://"):  # an object appears when it is whole
    path.write_text(text)
    return
  part = path.with_name(f".{path.name}.{os.getpid()}")
  try:
    with open(part, "w", encoding="utf-8") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    os.replace(part, path)
  finally:
    part.unlink(missing_ok=True)


def _check_bucket(bucket: str, folder: epath.Path, permissions: tuple[str, ...]) -> None:
  """Asks now what orbax would find out at the first checkpoint."""
  try:
    from google.cloud import exceptions, storage
  except ImportError as error:
    raise ConfigError(f"{folder} needs google-cloud-storage; pip install 'dmmd_jax[gs]'") from error
  for name in ("google.auth", "urllib3"):  # warn of what the error below says
    logging.getLogger(name).setLevel(logging.ERROR)
  try:
    granted = storage.Client().bucket(bucket).test_iam_permissions(permissions)
    missing = sorted(set(permissions) - set(granted))
    if not missing:
      folder.exists()  # asks by another client, which looks for credentials by itself
  except exceptions.NotFound as error:
    raise ConfigError(f"there is no bucket {bucket}; create it, or name another workdir") from error
  except Exception as error:  # each of these clients has exceptions of its own
    raise ConfigError(
      f"cannot reach {folder} with the credentials of `gcloud auth application-default login`,"
      f" GOOGLE_APPLICATION_CREDENTIALS or this machine's service account: {error}"
    ) from error
  if missing:
    raise ConfigError(
      f"bucket {bucket} does not grant {', '.join(missing)}; expected the roles Storage Object User"
      " and Storage Legacy Bucket Reader, or Storage Admin"
    )


def sizes(folder: epath.Path) -> dict[str, int]:
  """Bytes of each file below a folder, by its path in there."""
  if not os.fspath(folder).startswith("gs://"):
    walk = os.walk(folder, followlinks=True)
    files = [os.path.join(top, name) for top, _, names in walk for name in names]
    return {os.path.relpath(f, folder): os.path.getsize(f) for f in files if os.path.isfile(f)}
  from google.cloud import storage

  bucket, _, prefix = f"{os.fspath(folder)}/".removeprefix("gs://").partition("/")
  blobs = storage.Client().bucket(bucket).list_blobs(prefix=prefix)
  # Names that end so are marks of folders, which copies may lack.
  files = [blob for blob in blobs if not blob.name.endswith("/")]
  return {blob.name.removeprefix(prefix): blob.size for blob in files}


def latest_step(phase_dir: epath.Path) -> int:
  """The step of the last finished checkpoint of a phase; 0 where there is none."""
  checkpoints = phase_dir / "checkpoints"
  names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
  numbers = [int(name) for name in names if name.isdecimal()]
  steps = sorted((n for n in numbers if str(n) in names), reverse=True)
  return next((step for step in steps if _is_whole(checkpoints / str(step))), 0)


def _is_whole(checkpoint: epath.Path) -> bool:
  """In a bucket nothing can be renamed at once: orbax writes this file last instead."""
  in_bucket = os.fspath(checkpoint).startswith("gs://")
  return (checkpoint / "commit_success.txt").exists() if in_bucket else checkpoint.is_dir()
