"""What is told of a training run as it goes on: losses and speed, in terminal and TensorBoard."""

import math
import time

import jax
import numpy as np
from etils import epath

from dmmd_jax.progress import duration, progress_bar, say
from dmmd_jax.speed import Speed, shown

# The program's exit code at a `NonFiniteError`: other failures may be chance, this one is not.
DIVERGED = 3


class NonFiniteError(Exception):
  """A loss or gradient became infinite or NaN."""


class TrainingLog:
  """Terminal and TensorBoard; looks at a step's metrics while the next one is running."""

  def __init__(
    self, name: str, num_steps: int, directory: epath.Path, start: int, config, speed: Speed
  ):
    self.saved = start  # the step of the newest checkpoint, 0 without
    self._name, self._num_steps, self._first = name, num_steps, start
    self._every, self._speed = config.log_every, speed
    self._pending = None
    self._window = []
    self._bar = None
    self._writer = None
    if start == num_steps:
      return
    if config.tensorboard and jax.process_index() == 0:
      # Imported late: it takes seconds, and tensorflow would claim the accelerators.
      import tensorflow as tf
      from clu import metric_writers

      tf.config.set_visible_devices([], "GPU")
      tf.config.set_visible_devices([], "TPU")
      self._writer = metric_writers.AsyncWriter(
        metric_writers.SummaryWriter(str(directory / "tensorboard"))
      )
    if start:
      say(f"{name}: going on at step {start} of {num_steps}")
    say(f"{name}: compiling …", until_next=True)
    self._began = time.monotonic()

  def __enter__(self):
    return self

  def __exit__(self, *_):
    if self._bar:
      self._bar.close()
    if self._writer:
      self._writer.close()

  def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
    """Takes the metrics of a step that has been started; the first one has been compiled then."""
    if not self._bar:
      say(f"{self._name}: compiled in {duration(time.monotonic() - self._began)}")
      self._speed.start()
      self._bar = progress_bar(self._num_steps, self._first, self._name, "steps")
    self.flush()
    self._pending = step, metrics

  def flush(self) -> None:
    if self._pending is None:
      return
    step, metrics = self._pending
    self._pending = None
    metrics = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if bad:
      kept = (
        f"the checkpoint of step {self.saved} is kept" if self.saved else "nothing is saved yet"
      )
      raise NonFiniteError(
        f"{bad[0]} is {metrics[bad[0]]} at step {step}; {kept}. Lower the learning rate or the"
        " clipping norm"
      )
    self._window.append(metrics)
    self._bar.update()
    if step % self._every == 0:
      means = {name: float(np.mean([m[name] for m in self._window])) for name in metrics}
      speed = self._speed.since_last(len(self._window))
      self._window.clear()
      losses = {name: f"{x:.3g}" for name, x in means.items() if name.endswith("loss")}
      self._bar.set_postfix(losses | shown(speed), refresh=False)
      if self._writer:
        self._writer.write_scalars(step, means | speed)
