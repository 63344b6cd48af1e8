"""What a run says while it works: bars on a terminal, whole lines in a log file."""

import sys
import time
from types import TracebackType
from typing import Protocol, Self, TextIO

import jax
from tqdm import tqdm

# Seconds between two lines of a log file.
_EVERY = 20.0
# That of tqdm, but never with seconds per step.
_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}{postfix}]"


class Progress(Protocol):
  """Progress towards a known total; a context manager, which closes it."""

  def update(self, n: int = 1) -> object: ...

  def set_postfix(self, ordered_dict: dict[str, str], refresh: bool = False) -> None: ...

  def close(self) -> None: ...

  def __enter__(self) -> Self: ...

  def __exit__(self, *error: object) -> object: ...


def progress_bar(total: int, initial: int, name: str, unit: str, delay: float = 0.0) -> Progress:
  """Progress with rate and time left, on standard error; of several processes, of the first.

  A bar on a terminal; elsewhere a line every 20 seconds, and one at the end. `unit` is in the
  plural. What takes less than `delay` seconds is not shown.
  """
  if jax.process_index() == 0 and not sys.stderr.isatty():
    return Lines(total, initial, name, unit, delay, sys.stderr)
  return tqdm(
    total=total,
    initial=initial,
    desc=name,
    unit=f" {unit}",
    bar_format=_BAR,
    delay=delay,
    dynamic_ncols=True,
    maxinterval=1.0,
    file=sys.stderr,
    disable=jax.process_index() > 0,
  )


class Lines:
  """Progress as lines such as `teacher: 500/2400 steps, 3.1 steps/s, 10 min left, loss 1.23`."""

  def __init__(self, total: int, initial: int, name: str, unit: str, delay: float, file: TextIO):
    self._total, self._name, self._unit, self._file = total, name, unit, file
    self._initial = self._done = self._written = initial
    self._values = ""
    self._start, self._delay = time.monotonic(), delay
    self._due = self._start + max(delay, _EVERY)

  def update(self, n: int = 1) -> None:
    self._done += n
    if time.monotonic() >= self._due:
      self._write()

  def set_postfix(self, ordered_dict: dict[str, str], refresh: bool = False) -> None:
    """Values that the next line ends with; `refresh` is for bars."""
    self._values = "".join(f", {name} {value}" for name, value in ordered_dict.items())

  def close(self) -> None:
    """Writes what no line has said yet."""
    if self._done > self._written and time.monotonic() >= self._start + self._delay:
      self._write()

  def __enter__(self) -> Self:
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
  ) -> None:
    self.close()

  def _write(self) -> None:
    now = time.monotonic()
    rate = (self._done - self._initial) / max(now - self._start, 1e-9)
    left = f", {duration((self._total - self._done) / rate)} left"
    print(
      f"{self._name}: {self._done}/{self._total} {self._unit},"
      f" {f'{rate:.0f}' if rate >= 100 else f'{rate:.3g}'} {self._unit}/s"
      f"{left if self._done < self._total else ''}{self._values}",
      file=self._file,
      flush=True,
    )
    self._written, self._due = self._done, now + _EVERY


def say(line: str, until_next: bool = False) -> None:
  """Prints a line on standard error, above a bar, in the first of several processes.

  On a terminal the next line takes the place of one that holds only `until_next`.
  """
  if jax.process_index() == 0:
    end = "\r" if until_next and sys.stderr.isatty() else "\n"
    tqdm.write(line, file=sys.stderr, end=end)
    sys.stderr.flush()


def duration(seconds: float) -> str:
  """A time in at most two units, such as `8.2 s`, `45 s`, `12 min`, `3 h 05 min` or `2 d 4 h`."""
  if seconds < 9.95:
    return f"{seconds:.1f} s"
  if seconds < 119.5:
    return f"{seconds:.0f} s"
  minutes = round(seconds / 60)
  if minutes < 60:
    return f"{minutes} min"
  hours, minutes = divmod(minutes, 60)
  return f"{hours} h {minutes:02d} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"
