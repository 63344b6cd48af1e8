"""One saved state: notes by which damage and mix-ups are told, and how it is read, with orbax."""

import asyncio
import functools
import gc
import hashlib
import json
import logging
import re
import sys
import warnings
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from dmmd_jax.digest import digest
from dmmd_jax.integrity import checksum

_METADATA = "_CHECKPOINT_METADATA"  # orbax's, with the notes
_CHUNK = 1 << 24
# Certain: the storage answers, and says that this is not what it holds.
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DamageError(Exception):
  """A checkpoint is not what was saved, for certain."""


def make_notes(step: int, state, origin: dict[str, Any]) -> dict[str, Any]:
  """What is saved beside a pytree of arrays: its `step`, digests of its parts, its layout.

  And its `origin`, for JSON: all that it was made from.
  """
  notes = {"step": step, "digests": _digests(state), "layout": layout(state), "origin": origin}
  return notes | {"checksum": checksum(notes)}


def read_notes(path: epath.Path) -> dict[str, Any]:
  """The notes of the checkpoint in `path`, `<directory>/<step>`; none in one of before there were.

  Raises `DamageError` where they are not as they were made, or those of another step.
  """
  try:
    notes = json.loads((path / _METADATA).read_text()).get("custom_metadata") or {}
    # The first notes had no checksum.
    if "digest" not in notes and notes and notes.pop("checksum") != checksum(notes):
      raise DamageError(f"{_METADATA} has been changed")
    if str(notes.get("step", path.name)) != path.name:
      raise DamageError(f"it is that of step {notes['step']}")
    return notes
  except _ABSENT as error:
    raise DamageError(f"{_METADATA} is missing") from error
  except (ValueError, AttributeError, KeyError, TypeError) as error:  # not what was written
    raise DamageError(f"{_METADATA} is garbled") from error


def layout(tree) -> str:
  """A checksum of names, shapes and dtypes: by it another state is told from a damaged one."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  lines = [f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}\n" for path, x in leaves]
  return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def read(path: epath.Path, abstract) -> tuple[Any, str]:
  """The state in `path` and "", or None and why it cannot be had, the same in all processes.

  It has the shapes, dtypes and shardings of `abstract`, which may be parts of it alone, such as
  `{"ema": params}`. What fails is damaged if it fails again after all of its files could be read:
  orbax's errors alone do not tell damage from a disk or a network that is away. The latter raises
  `OSError`.
  """
  state, why = _read_once(path, abstract)
  if why:
    _read_files(path)
    state, why = _read_once(path, abstract)
  return state, why


def other_shape(path: epath.Path, abstract) -> str:
  """Of an array that is there in another shape than in `abstract`: its name and both, or ""."""
  try:
    with ocp.PyTreeCheckpointer() as checkpointer:
      tree = checkpointer.metadata(absolute(path / "default")).item_metadata.tree
    there = _shapes(tree)
  except Exception:  # of a damaged one there may be anything
    return ""
  for name, shape in _shapes(abstract).items():
    if there.get(name, shape) != shape:
      return f"{name} of shape {there[name]}, where this program has {shape}"
  return ""


def _shapes(tree) -> dict[str, tuple[int, ...]]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(p, simple=True, separator="."): tuple(x.shape) for p, x in leaves}


def absolute(directory: epath.Path) -> epath.Path:
  """The path that orbax wants; `absolute` takes the name of a bucket for that of a folder."""
  return directory if directory.is_absolute() else directory.absolute()


@functools.cache
def hush() -> None:
  """Silences reads that nobody waits for, since another one has failed before them.

  They report to asyncio when they fail, too, and to a loop that is closed by then.
  """
  logging.getLogger("asyncio").addFilter(lambda record: not _is_left_behind(record))
  report = sys.unraisablehook

  def unraisablehook(args):
    is_orbax = asyncio.iscoroutine(args.object) and "orbax" in args.object.cr_code.co_filename
    if not is_orbax and "Event loop is closed" not in str(args.exc_value):
      report(args)

  sys.unraisablehook = unraisablehook


def _digests(tree) -> dict[str, str]:
  """A digest per part of a state, such as `ema`: parts can be read alone."""
  parts = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is not tree)
  return {jax.tree_util.keystr(path, simple=True): digest(part) for path, part in parts}


def _is_intact(state, notes: dict[str, Any]) -> bool:
  """Whether the parts of a state are those saved; the first notes had one digest of them all."""
  if "digest" in notes:
    return notes["layout"] != layout(state) or digest(state) == notes["digest"]
  saved = notes.get("digests", {})
  return all(saved.get(name) in (None, found) for name, found in _digests(state).items())


def _read_files(path: epath.Path) -> None:
  if path.is_dir():
    for inner in path.iterdir():
      _read_files(inner)
  elif path.exists():
    with path.open("rb") as content:
      while content.read(_CHUNK):
        pass


def _read_once(path: epath.Path, abstract):
  state, why, notes = None, "", {}
  with warnings.catch_warnings():
    warnings.filterwarnings("ignore", r"coroutine .* was never awaited", RuntimeWarning)
    try:
      notes = read_notes(path)
      state = _restore_alone(path / "default", abstract)
      _require_arrays(state)
    except (jax.errors.JaxRuntimeError, MemoryError):
      raise  # says something of this machine, nothing of the checkpoint
    except Exception as error:
      if isinstance(error, OSError) and not isinstance(error, _ABSENT):
        raise
      why = _in_short(error)
    if why:
      gc.collect()  # what orbax leaves behind complains when it is collected
  if not np.all(multihost_utils.process_allgather(np.array(not why))):
    return None, why or "another process cannot read it"
  if not _is_intact(state, notes):
    return None, "its digest is not that of what was saved"
  return state, ""


def _restore_alone(path: epath.Path, abstract):
  """Waits for no other process: one that fails where the others do not would leave them waiting."""
  hush()
  this = jax.process_index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"alone{this}"
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
  with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
    return checkpointer.restore(
      absolute(path),
      args=ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
      ),
    )


def _require_arrays(state) -> None:
  """Raises `DamageError` for what orbax has left as it was asked for, since it is not there."""
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    if not isinstance(leaf, jax.Array):
      raise DamageError(f"it has no {jax.tree_util.keystr(path, simple=True, separator='.')}")


def _in_short(error: BaseException) -> str:
  """The innermost cause in some words, where orbax and tensorstore have hundreds."""
  while error.__cause__ and not isinstance(error, DamageError):
    error = error.__cause__
  if isinstance(error, json.JSONDecodeError | KeyError):
    return "its metadata are garbled"
  text = re.sub(r"\[(tensorstore_spec|source locations).*", "", " ".join(str(error).split()))
  text = text.rsplit('": ', 1)[-1].strip() or type(error).__name__
  return text if len(text) <= 140 else f"… {text[-138:]}"


def _is_left_behind(record: logging.LogRecord) -> bool:
  """Whether asyncio tells of an error in a read of orbax, which has raised the first one."""
  text = logging.Formatter().format(record)
  return "orbax" in text or "tensorstore" in text
