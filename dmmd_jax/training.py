"""The one training loop: restore, step, log, save, stop on a signal. It knows no method by name."""

import dataclasses
import functools
import signal
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from etils import epath
from jax.experimental import multihost_utils

from dmmd_jax import checkpoints, estimate, parallel, signals
from dmmd_jax.data.pipeline import Batches
from dmmd_jax.profile import Profile
from dmmd_jax.speed import Speed
from dmmd_jax.training_log import TrainingLog


class StoppedError(Exception):
  """The run was asked to stop and has saved its state; `number` is the signal's."""

  def __init__(self, message: str, number: int):
    super().__init__(message)
    self.number = number


@dataclasses.dataclass(frozen=True)
class Job:
  """What a phase hands to the loop.

  `init(key, given)` makes the state, a pytree whose parameters may carry logical axis names, from
  arrays that exist already, such as a teacher's; `step(state, batch, key)` gives the next state and
  scalar metrics. `origin` is all that the result depends on.
  """

  name: str
  num_steps: int
  init: Callable[[jax.Array, Any], Any]
  step: Callable[[Any, Any, jax.Array], tuple[Any, dict[str, jax.Array]]]
  batches: Batches
  given: Any = ()
  origin: dict[str, Any] = dataclasses.field(default_factory=dict)


def train(job: Job, directory: epath.Path, config, mesh: jax.sharding.Mesh):
  """Runs `job` to its last step, from the last undamaged checkpoint below `directory` if any.

  `config` is the section `run` of a config.
  Returns the final state. Raises `training_log.NonFiniteError`, `StoppedError` after a signal, and
  `CheckpointError`; checkpoints saved before stay.
  """
  init_key, run_key = jax.random.split(jax.random.key(config.seed))
  shardings = parallel.state_shardings(mesh, jax.eval_shape(job.init, init_key, job.given))
  init = jax.jit(lambda *args: nn.unbox(job.init(*args)), out_shardings=shardings)
  replicated = parallel.replicated(mesh)

  @functools.partial(jax.jit, donate_argnums=0, out_shardings=(shardings, replicated))
  def step_fn(state, batch, step):
    return job.step(state, batch, jax.random.fold_in(run_key, step))

  folder = directory / "checkpoints"
  abstract = checkpoints.abstract_like(jax.eval_shape(init, init_key, job.given), shardings)
  start, state = checkpoints.restore_newest(folder, abstract, job.origin)
  left = range(start, job.num_steps)
  speed = Speed(job.batches.size, mesh)
  step_fn = estimate.Announced(job.name, step_fn, abstract, left, mesh, speed)
  log = TrainingLog(job.name, job.num_steps, directory, start, config, speed)
  if not start:
    state = init(init_key, job.given)
  size = job.batches.size
  rows = parallel.local_rows(mesh, size)
  with (
    _Stop() as stop,
    checkpoints.open_manager(folder, config.keep_checkpoints) as manager,
    log,
    Profile(directory / "profile", config.profile) as profile,
    parallel.use(mesh),
  ):
    batches = job.batches.read(start, rows) if start < job.num_steps else iter(())
    for step, batch in zip(left, batches, strict=False):
      with profile.step(step + 1):
        state, metrics = step_fn(state, parallel.place_batch(mesh, batch, rows, size), step)
      profile.end(step + 1, metrics)
      log.add(step + 1, metrics)
      last, stopped = step + 1 == job.num_steps, stop.requested(step)
      if last or stopped or (step + 1) % config.checkpoint_every == 0:
        log.flush()  # raises before a state that is not finite could be saved
        checkpoints.save(manager, step + 1, state, job.origin)
        log.saved = step + 1
      if stopped:
        break
    manager.wait_until_finished()
    if number := stop.number:
      raise StoppedError(
        f"stopped {job.name} at step {log.saved}, saved; run again to continue", number
      )
  return state


class _Stop(signals.Noted):
  """Notes SIGTERM and SIGINT instead of ending, so that the loop can save first.

  Several processes have to stop at the same step. Jax notes a SIGTERM to any of them (not SIGINT)
  and agrees with the others on a step that none has passed.
  """

  def __enter__(self):
    self._alone = jax.process_count() == 1
    return super().__enter__() if self._alone else self

  def requested(self, step: int) -> bool:
    self.armed = True  # there is a step to save, and it has been compiled
    if not self._alone and multihost_utils.reached_preemption_sync_point(step):
      self.number = signal.SIGTERM
    return self.number > 0

  def __exit__(self, *error):
    if self._alone:
      super().__exit__(*error)
