"""Checkpoints of a phase, with orbax: asynchronous, atomic, the last few kept."""

import jax
import orbax.checkpoint as ocp
from etils import epath


class CheckpointError(Exception):
  """A checkpoint that cannot be used."""

  def __init__(self, directory: epath.Path, step: int, what: str):
    super().__init__(f"checkpoint {directory / str(step)} is damaged: {what}")
    self.directory, self.step = directory, step


def set_aside(directory, step):
  (directory / str(step)).rename(directory / f"{step}.damaged")


def open_manager(directory: epath.Path, keep: int) -> ocp.CheckpointManager:
  """A manager of `<directory>/<step>`; unfinished checkpoints of a killed run are never seen."""
  options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
  return ocp.CheckpointManager(_absolute(directory), options=options)


def save(manager: ocp.CheckpointManager, step: int, state) -> None:
  """Starts to save `state`, a pytree of arrays; returns before it is written."""
  manager.save(step, args=ocp.args.StandardSave(state))


def restore(manager: ocp.CheckpointManager, step: int, abstract_state):
  """Reads a checkpoint into the shapes, dtypes and shardings of `abstract_state`."""
  return manager.restore(step, args=ocp.args.StandardRestore(abstract_state))


def restore_part(directory: epath.Path, step: int, abstract_part):
  """Reads the subtree `abstract_part`, such as `{"ema": params}`, of the checkpoint of a step."""
  with ocp.PyTreeCheckpointer() as checkpointer:
    return checkpointer.restore(
      _absolute(directory) / str(step) / "default",
      args=ocp.args.PyTreeRestore(
        abstract_part,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract_part),
        partial_restore=True,
      ),
    )


def _absolute(directory: epath.Path) -> epath.Path:
  """The path that orbax wants; `absolute` takes the name of a bucket for that of a folder."""
  return directory if directory.is_absolute() else directory.absolute()


def abstract_like(tree, shardings):
  """The shapes and dtypes of `tree` with `shardings`, as restoring wants them."""
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree, shardings
  )
