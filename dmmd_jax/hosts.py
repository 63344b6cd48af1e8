"""Starts the processes of a run that has several, and ends them when one is lost."""

import atexit
import contextlib
import importlib.util
import itertools
import os
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

import jax
from etils import epath
from jax._src.distributed import global_state  # what jax.experimental.multihost_utils uses

from dmmd_jax import lock, signals
from dmmd_jax.config import ConfigError

# A process that says nothing for so long is lost, and the others end.
_PATIENCE_SECONDS = 60
_FINISHED = "finished"

_ADDRESS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
  """Joins the processes of one run; call it before anything else asks jax for a device.

  By `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, as the tasks of a Slurm
  step, or as the hosts of a Cloud TPU slice. Does nothing where there is one process. When another
  process is lost this one ends in one line, with exit code 1. Raises `ConfigError` where only some
  of the variables are set.
  """
  patience = float(os.environ.get("DMMD_PATIENCE_SECONDS", _PATIENCE_SECONDS))
  # jax ends the others too, but in a hundred lines and by SIGABRT: it has to wait so much longer
  # that this process comes first on a machine that is overloaded, too.
  options = {"heartbeat_timeout_seconds": int(10 * patience)}
  given = [name for name in _ADDRESS if name in os.environ]
  if given:
    if len(given) < len(_ADDRESS):
      raise ConfigError(f"only {', '.join(given)} is set; expected all of {', '.join(_ADDRESS)}")
    address, number, index = (os.environ[name] for name in _ADDRESS)
    jax.distributed.initialize(
      address, int(number), int(index), cluster_detection_method="deactivate", **options
    )
  elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
    jax.distributed.initialize(cluster_detection_method="slurm", **options)
  elif importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS") != "cpu":
    try:
      jax.distributed.initialize(**options)
    except ValueError:  # libtpu is installed, but this is no TPU
      if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        raise
  if global_state.num_processes > 1:  # asking jax would take the devices, before the lock is ours
    finished = threading.Event()
    watch = threading.Thread(target=_watch, args=(patience, finished), daemon=True)
    watch.start()
    # Before jax leaves: a thread that is inside of its client then would bring the process down.
    atexit.register(lambda: (finished.set(), watch.join()))


@contextlib.contextmanager
def hold(workdir: epath.Path) -> Iterator[None]:
  """The lock of `workdir`, which process 0 takes for all; see `lock.hold`."""
  with contextlib.ExitStack() as stack:
    problem = ""
    if global_state.process_id == 0:
      try:
        stack.enter_context(lock.hold(workdir))
      except (ConfigError, OSError) as error:
        if global_state.num_processes == 1:
          raise
        problem = str(error)
    if global_state.num_processes > 1:
      problem = _from_process_0("lock", problem)
    if problem:
      raise ConfigError(problem)
    yield


def leave(reason: str) -> NoReturn:
  """Ends this process at once: leaving in good order would wait for the one that is lost."""
  signals.end(
    f"dmmd_jax: process {global_state.process_id} stops: {reason}. Start all of them again: the run"
    " goes on from its last checkpoint",
    1,
  )


def _watch(patience: float, finished: threading.Event) -> None:
  """Says again and again that this process lives, and looks whether the others do."""
  others = [i for i in range(global_state.num_processes) if i != global_state.process_id]
  said, heard = dict.fromkeys(others, ""), dict.fromkeys(others, time.monotonic())
  for beat in itertools.count():
    _say(str(beat))
    if finished.wait(patience / 10):
      break
    for i in others:
      word = _hear(i)
      if word != said[i]:
        said[i], heard[i] = word, time.monotonic()
      elif word != _FINISHED and time.monotonic() - heard[i] > patience:
        leave(f"process {i} is lost, it has said nothing for {patience:.0f} seconds")
  _say(_FINISHED)


def _from_process_0(name: str, word: str) -> str:
  """What process 0 says of `name`, to all; they wait for as long as it lives."""
  key = f"dmmd/{name}"
  if global_state.process_id == 0:
    global_state.client.key_value_set(key, word)
  return global_state.client.blocking_key_value_get(key, 24 * 3600 * 1000)


def _say(word: str) -> None:
  try:
    global_state.client.key_value_set(_key(global_state.process_id), word, allow_overwrite=True)
  except jax.errors.JaxRuntimeError:
    leave("process 0 is lost, which keeps the others together")


def _hear(process: int) -> str:
  try:
    return global_state.client.key_value_try_get(_key(process))
  except jax.errors.JaxRuntimeError:
    return ""  # it has not begun


def _key(process: int) -> str:
  return f"dmmd/alive/{process}"
