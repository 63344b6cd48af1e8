"""Ctrl-C and SIGTERM end a program in one line; a training loop saves first. Standard library only.

Python calls handlers of signals only between two of its own instructions, which may be minutes away
while XLA compiles. So a thread waits for signals, and ends the program by itself.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_CLEANUP_SECONDS = 5

_cleanups: list[Callable[[], None]] = []
_noting: "Noted | None" = None
_is_watched = False


def end_in_one_line(prog: str, then: str = "") -> None:
  """From now on SIGINT and SIGTERM end the program in one line, with exit code 130 and 143.

  To be called by the main thread, before anything that takes long is imported. `then` ends the
  line. Signals that whoever started the program ignores stay ignored.
  """
  global _is_watched
  heard, told = os.pipe()
  os.set_blocking(told, False)
  signal.set_wakeup_fd(told, warn_on_full_buffer=False)
  for number in SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, _do_nothing)
  os.register_at_fork(after_in_child=_forget)
  threading.Thread(target=_watch, args=(heard, prog, then), daemon=True).start()
  _is_watched = True


def at_end(cleanup: Callable[[], None]) -> Callable[[], None]:
  """`cleanup` is called if the program ends before its end; returns what takes that back."""
  _cleanups.append(cleanup)
  return lambda: _cleanups.remove(cleanup) if cleanup in _cleanups else None


def end(line: str, code: int) -> NoReturn:
  """Ends the program from any thread, at once: prints `line`, cleans up, waits for nothing."""
  if sys.stderr.isatty():
    print(file=sys.stderr)  # a progress bar, or ^C, stands in the last line
  sys.stderr.write(f"{line}\n")  # in one piece: other threads write there, too
  sys.stderr.flush()
  if "multiprocessing" in sys.modules:  # workers that read data, which wait for us
    for worker in sys.modules["multiprocessing"].active_children():
      worker.kill()
  cleaning = threading.Thread(target=lambda: [c() for c in reversed(_cleanups)], daemon=True)
  cleaning.start()
  cleaning.join(_CLEANUP_SECONDS)  # a disk or a network may be away
  os._exit(code)


class Noted:
  """Within it, once `armed`, the first SIGINT or SIGTERM is noted in `number`; a second one ends.

  Before that, when there is nothing to save yet, the first one ends as it would outside.
  """

  number = 0
  armed = False

  def __enter__(self) -> "Noted":
    global _noting
    _noting, self._previous = self, {}
    for number in () if _is_watched else SIGNALS:
      self._previous[number] = signal.signal(number, self._note)
    return self

  def __exit__(self, *_) -> None:
    global _noting
    _noting = None
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def _note(self, number: int, _) -> None:
    if self.number or not self.armed:
      signal.signal(number, self._previous[number])
      os.kill(os.getpid(), number)
    self.number = number


def _watch(heard: int, prog: str, then: str) -> None:
  while True:
    number = os.read(heard, 1)[0]
    if number not in SIGNALS:
      continue
    if _noting and _noting.armed and not _noting.number:
      _noting.number = number
    else:
      name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
      end(f"{prog}: stopped by {name}{then}", 128 + number)


def _do_nothing(*_) -> None:
  """A signal wakes the thread up only if it has a handler."""


def _forget() -> None:
  """A fork is another program: its signals are not ours."""
  signal.set_wakeup_fd(-1)
  for number in SIGNALS:
    if signal.getsignal(number) is _do_nothing:
      signal.signal(number, signal.SIG_DFL)
