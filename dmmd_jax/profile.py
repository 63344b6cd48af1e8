"""A trace of a few training steps, by jax's profiler."""

import contextlib

import jax
from etils import epath

from dmmd_jax.progress import say


class Profile:
  """Traces the steps `(first, last)`, counted from 1, into a folder; `()` traces none.

  Each of several processes traces its own devices. What was traced before an error is kept.
  """

  def __init__(self, folder: epath.Path, steps: tuple[int, int] | tuple[()]):
    self._folder, self._running = folder, False
    self._first, self._last = steps or (0, 0)

  def __enter__(self) -> "Profile":
    return self

  def __exit__(self, *_) -> None:
    self._stop()

  def step(self, step: int) -> contextlib.AbstractContextManager:
    """Names what is done inside as that step."""
    if not self._running and self._first <= step <= self._last:
      jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
      self._running = True
    if not self._running:
      return contextlib.nullcontext()
    return jax.profiler.StepTraceAnnotation("train", step_num=step)

  def end(self, step: int, results: object) -> None:
    """Writes the trace after the last of its steps, whose `results` devices may still work on."""
    if self._running and step == self._last:
      jax.block_until_ready(results)
      self._stop()

  def _stop(self) -> None:
    if self._running:
      self._running = False
      jax.profiler.stop_trace()
      say(f"profile of steps {self._first} to {self._last}: {self._folder}")
