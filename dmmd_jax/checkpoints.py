"""Checkpoints of a phase, with orbax: asynchronous, atomic, the last few kept, damage noticed."""

import os
import sys
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from dmmd_jax import saved_state
from dmmd_jax.fields import upgraded
from dmmd_jax.nested import differences

_LAST = "commit_success.txt"


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


def open_manager(
  directory: epath.Path, keep: int, written_at_once: int = 96
) -> ocp.CheckpointManager:
  """A manager of `<directory>/<step>`; unfinished checkpoints of a killed run are never seen.

  While it saves, up to `written_at_once` GB are in memory once more: `least_at_once` or more.
  """
  saved_state.hush()
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
  handler = ocp.StandardCheckpointHandler(save_concurrent_gb=written_at_once)
  return ocp.CheckpointManager(
    saved_state.absolute(directory), options=options, item_handlers=handler
  )


def least_at_once(state) -> int:
  """GB that are more than any device's part of an array has: orbax writes such a part in one."""
  parts = [part.data.nbytes for x in jax.tree.leaves(state) for part in x.addressable_shards]
  return 1 + max(parts) // 10**9


def save(manager: ocp.CheckpointManager, step: int, state, origin: dict[str, Any]) -> None:
  """Starts to save `state`, a pytree of arrays, and returns before it is written.

  `origin`, for JSON, is all that it was made from, by which the state of another run is noticed.
  """
  notes = saved_state.make_notes(step, state, origin)
  manager.save(step, args=ocp.args.StandardSave(state), custom_metadata=notes)


def restore_newest(
  directory: epath.Path, abstract_state, origin: dict[str, Any]
) -> tuple[int, object]:
  """Reads the newest undamaged checkpoint of `<directory>/<step>`, the same in all processes.

  Returns its step and the state, with the shapes, dtypes and shardings of `abstract_state`; `(0,
  None)` where there is none. Damaged ones are set aside, which one line on standard error says.
  Raises `CheckpointError` where a checkpoint holds another state than the one asked for, or one of
  another `origin`, and `OSError` where the storage fails.
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
      state = _restore(directory, step, abstract_state, origin)
      break
    except saved_state.DamageError as error:
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
  """Reads the parts `abstract_part`, such as `{"ema": params}`, of the checkpoint of `step`.

  Raises `DamagedModelError` where they are damaged or absent, `CheckpointError` where they are
  those of another program, `OSError` where the storage fails.
  """
  part, why = saved_state.read(directory / str(step), abstract_part)
  if why and (other := saved_state.other_shape(directory / str(step), abstract_part)):
    raise CheckpointError(
      f"checkpoint {step} of {directory} has {other}; use it with the version of dmmd_jax that"
      " wrote it, or train anew in another --workdir"
    )
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


def _of_process_0(step: int) -> int:
  """Folders on a network may look different to each process, which all need the same step."""
  return int(multihost_utils.broadcast_one_to_all(np.int32(step)))


def _restore(directory: epath.Path, step: int, abstract_state, origin: dict[str, Any]):
  path = directory / str(step)
  state, why = saved_state.read(path, abstract_state)
  try:
    notes = saved_state.read_notes(path)
  except saved_state.DamageError as error:
    raise saved_state.DamageError(why or str(error)) from error
  layout = notes.get("layout")
  fits = layout == saved_state.layout(abstract_state) if layout else not why
  if not fits:
    reason = "has other names, shapes or dtypes than" if layout else f"({why}) does not fit"
    raise CheckpointError(
      f"checkpoint {step} of {directory} {reason} this program's state; run it with the version"
      f" that wrote it, choose another --workdir, or move {directory} away to start the phase again"
    )
  if why:
    raise saved_state.DamageError(why)
  if changed := differences(upgraded(notes.get("origin", origin)), origin):
    raise CheckpointError(
      f"checkpoint {step} of {directory} is of another run ({'; '.join(changed[:3])}); put back"
      " that of this run, or move it away to go on from the one before"
    )
  return state
