"""Checkpoints of a phase, with orbax: asynchronous, atomic, the last few kept, damage noticed."""

import asyncio
import functools
import gc
import hashlib
import json
import os
import re
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from dmmd_jax.digest import digest

_METADATA = "_CHECKPOINT_METADATA"  # orbax's, with what `save` adds
_LAST = "commit_success.txt"
_CHUNK = 1 << 24
# Certain: the storage answers, and says that this is not what it holds.
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class CheckpointError(ValueError):
  """A checkpoint cannot be used; the message is one line that says what to do."""


class DamagedModelError(CheckpointError):
  """The checkpoint of `step` in `directory`, which another phase reads, is not what was saved."""

  def __init__(self, directory: epath.Path, step: int, why: str):
    super().__init__(
      f"checkpoint {step} of {directory} is damaged ({why}); run its phase again, which goes on"
      " from the checkpoint before"
    )
    self.directory, self.step = directory, step


class _DamageError(Exception):
  """A checkpoint is not what was saved, for certain."""


def open_manager(directory: epath.Path, keep: int) -> ocp.CheckpointManager:
  """A manager of `<directory>/<step>`; unfinished checkpoints of a killed run are never seen."""
  _hush()
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
  return ocp.CheckpointManager(_absolute(directory), options=options)


def save(manager: ocp.CheckpointManager, step: int, state) -> None:
  """Starts to save `state`, a pytree of arrays, with its digest; returns before it is written."""
  record = {"digest": digest(state), "layout": _layout(state)}
  manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=record)


def restore_newest(directory: epath.Path, abstract_state) -> tuple[int, object]:
  """Reads the newest undamaged checkpoint of `<directory>/<step>`, the same in all processes.

  Returns its step and the state, with the shapes, dtypes and shardings of `abstract_state`; `(0,
  None)` where there is none. Damaged ones are set aside, which one line on standard error says.
  Raises `CheckpointError` where a checkpoint holds another state than the one asked for, and
  `OSError` where the storage fails.
  """
  if directory.exists() and not directory.is_dir():
    raise CheckpointError(
      f"{directory} is a file; expected a folder of checkpoints. Move it away and run again"
    )
  for stray in _entries(directory):  # orbax would take a file of such a name for a checkpoint
    if not (directory / str(stray)).is_dir():
      set_aside(directory, stray)
  found, state = [], None
  while step := _of_process_0(max(_entries(directory), default=0)):
    try:
      state = _restore(directory, step, abstract_state)
      break
    except _DamageError as error:
      set_aside(directory, step)
      found.append(f"{step} ({error})")
  if found and jax.process_index() == 0:
    then = f"the phase goes on from step {step}" if step else "the phase starts again"
    print(
      f"dmmd_jax: damaged checkpoints of {directory}: {', '.join(found)}; they are kept in"
      f" {_damaged(directory)}, and {then}",
      file=sys.stderr,
    )
  return step, state


def restore_part(directory: epath.Path, step: int, abstract_part):
  """Reads the subtree `abstract_part`, such as `{"ema": params}`, of the checkpoint of `step`.

  Raises `DamagedModelError` where the checkpoint is damaged or absent, `OSError` where the storage
  fails. The values are not compared with the digest, which is that of the whole state.
  """
  part, why = _read_twice(directory / str(step), abstract_part, is_whole=False)
  if why:
    raise DamagedModelError(directory, step, why)
  return part


def set_aside(directory: epath.Path, step: int) -> None:
  """Moves a damaged checkpoint to `damaged/` beside `directory`, where nothing looks for one.

  All processes have to call it; process 0 moves.
  """
  if jax.process_index() == 0:
    folder = _damaged(directory)
    folder.mkdir(exist_ok=True)
    names = [str(step), *(f"{step}.{i}" for i in range(1, 1000))]
    _move(directory / str(step), next(folder / n for n in names if not (folder / n).exists()))
  multihost_utils.sync_global_devices(f"set aside {directory} {step}")


def abstract_like(tree, shardings):
  """The shapes and dtypes of `tree` with `shardings`, as restoring wants them."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, shardings
  )


def _absolute(directory: epath.Path) -> epath.Path:
  """The path that orbax wants; `absolute` takes the name of a bucket for that of a folder."""
  return directory if directory.is_absolute() else directory.absolute()


def _damaged(directory: epath.Path) -> epath.Path:
  return directory.parent / "damaged"


def _entries(directory: epath.Path) -> list[int]:
  """What orbax takes for steps; whatever else lies there is nobody's business.

  In a bucket nothing is renamed at once: a save that a kill has cut short lacks the file that orbax
  writes last.
  """
  names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
  if os.fspath(directory).startswith("gs://"):
    names = [name for name in names if (directory / name / _LAST).exists()]
  steps = [int(name) for name in names if name.isascii() and name.isdecimal()]
  return [step for step in steps if step and str(step) in names]


def _move(source: epath.Path, target: epath.Path) -> None:
  if not os.fspath(source).startswith("gs://"):
    source.rename(target)
    return
  from google.cloud import storage

  name, _, prefix = os.fspath(source).removeprefix("gs://").partition("/")
  new_prefix = os.fspath(target).removeprefix(f"gs://{name}/")
  bucket = storage.Client().bucket(name)
  # Without its last file orbax would take the rest for unfinished, and delete it.
  blobs = sorted(bucket.list_blobs(prefix=f"{prefix}/"), key=lambda b: b.name.endswith(_LAST))
  for blob in blobs:
    bucket.rename_blob(blob, new_prefix + blob.name.removeprefix(prefix))


def _layout(tree) -> str:
  """A checksum of names, shapes and dtypes: by it another state is told from a damaged one."""
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  lines = [f"{jax.tree_util.keystr(path)} {x.shape} {x.dtype}\n" for path, x in leaves]
  return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def _of_process_0(step: int) -> int:
  """Folders on a network may look different to each process, which all need the same step."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def _restore(directory: epath.Path, step: int, abstract_state):
  path = directory / str(step)
  state, why = _read_twice(path, abstract_state, is_whole=True)
  if not why:
    return state
  try:
    layout = _recorded(path).get("layout")
  except _DamageError as error:
    raise _DamageError(why) from error
  if layout == _layout(abstract_state):
    raise _DamageError(why)
  reason = "has other names, shapes or dtypes than" if layout else f"({why}) does not fit"
  raise CheckpointError(
    f"checkpoint {step} of {directory} {reason} this program's state; run it with the version that"
    " wrote it, choose another --workdir, or move the checkpoint away to go on from the one before"
  )


def _recorded(path: epath.Path) -> dict[str, str]:
  """What `save` has noted; nothing in checkpoints of before it noted anything."""
  try:
    record = json.loads((path / _METADATA).read_text()).get("custom_metadata") or {}
    return record if "digest" in record else {}
  except _ABSENT as error:
    raise _DamageError(f"{_METADATA} is missing") from error
  except (ValueError, AttributeError) as error:  # not UTF-8, not JSON, not a dictionary
    raise _DamageError(f"{_METADATA} is garbled") from error


def _read_twice(path: epath.Path, abstract, is_whole: bool):
  """The state and "", or None and why it cannot be had, in which all processes agree.

  What fails is damaged if it fails again after all of its files could be read: orbax's errors alone
  do not tell damage from a disk or a network that is away. The latter raises `OSError`.
  """
  state, why = _read(path, abstract, is_whole)
  if why:
    _read_files(path)
    state, why = _read(path, abstract, is_whole)
  return state, why


def _read_files(path: epath.Path) -> None:
  if path.is_dir():
    for inner in path.iterdir():
      _read_files(inner)
  elif path.exists():
    with path.open("rb") as content:
      while content.read(_CHUNK):
        pass


def _read(path: epath.Path, abstract, is_whole: bool):
  state, why, recorded = None, "", {}
  try:
    recorded = _recorded(path)
    state = _restore_alone(path / "default", abstract)
  except (jax.errors.JaxRuntimeError, MemoryError):
    raise  # says something of this machine, nothing of the checkpoint
  except Exception as error:
    if isinstance(error, OSError) and not isinstance(error, _ABSENT):
      raise
    why = _in_short(error)
    gc.collect()  # what orbax leaves behind complains when it is collected
  if not np.all(multihost_utils.process_allgather(np.array(not why))):
    return None, why or "another process cannot read it"
  if is_whole and recorded and digest(state) != recorded["digest"]:
    return None, "its digest is not that of what was saved"
  return state, ""


def _restore_alone(path: epath.Path, abstract):
  """Waits for no other process: one that fails where the others do not would leave them waiting."""
  _hush()
  this = jax.process_index()
  options = ocp.options.MultiprocessingOptions(
    primary_host=this, active_processes={this}, barrier_sync_key_prefix=f"alone{this}"
  )
  handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
  with ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer:
    return checkpointer.restore(
      _absolute(path),
      args=ocp.args.PyTreeRestore(
        abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
      ),
    )


def _in_short(error: BaseException) -> str:
  """The innermost cause in some words, where orbax and tensorstore have hundreds."""
  while error.__cause__ and not isinstance(error, _DamageError):
    error = error.__cause__
  if isinstance(error, json.JSONDecodeError | KeyError):
    return "its metadata are garbled"
  text = re.sub(r"\[(tensorstore_spec|source locations).*", "", " ".join(str(error).split()))
  text = text.rsplit('": ', 1)[-1].strip() or type(error).__name__
  return text if len(text) <= 140 else f"… {text[-138:]}"


@functools.cache
def _hush() -> None:
  """What fails leaves reads and writes behind, which report at length to a loop that is closed."""
  report = sys.unraisablehook

  def unraisablehook(args):
    is_orbax = asyncio.iscoroutine(args.object) and "orbax" in args.object.cr_code.co_filename
    if not is_orbax and "Event loop is closed" not in str(args.exc_value):
      report(args)

  sys.unraisablehook = unraisablehook
