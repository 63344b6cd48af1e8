"""Which versions, and which device, make a result. Pure Python."""

import functools
import importlib.metadata
import pathlib
import platform
import subprocess


def made_by(device: str) -> dict[str, str | None]:
  """The `device` in words, and the versions of what makes results.

  `commit` is None unless the package runs from its own repository.
  """
  return {"device": device, **_versions()}


def changed_since(commit: str | None) -> str:
  """That the code may have changed since a `commit`, in words; "" where it has not, or none tells.

  What differs from a commit may have changed without another one.
  """
  now = _versions()["commit"]
  if not commit or not now or (commit == now and not now.endswith("-dirty")):
    return ""
  return f" (by the code of {_short(commit)}; it is now that of {_short(now)})"


def _short(commit: str) -> str:
  return commit[:7] + "-dirty" * commit.endswith("-dirty")


@functools.cache
def _versions() -> dict[str, str | None]:
  found = {"python": platform.python_version()}
  for name in ("dmmd_jax", "jax", "jaxlib", "flax", "optax"):
    try:
      found[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
      found[name] = None
  return found | {"commit": _commit(pathlib.Path(__file__).parent)}


def _commit(package: pathlib.Path) -> str | None:
  """Of the working tree that tracks `package`, with `-dirty` where files differ from it."""

  def git(*args):
    command = ["git", "-C", str(package), *args]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

  try:
    git("ls-files", "--error-unmatch", "__init__.py")
    return git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
  except (OSError, subprocess.CalledProcessError):
    return None
