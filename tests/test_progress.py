"""What a run says: whole lines in a log file, a bar on a terminal."""

import io
import sys

import pytest

from dmmd_jax import progress


class Clock:
  """Time that passes only when it is told to."""

  def __init__(self):
    self.now = 100.0

  def monotonic(self):
    return self.now


class Terminal(io.StringIO):
  def isatty(self):
    return True


@pytest.fixture
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(progress, "time", clock)
  return clock


def test_a_log_file_has_whole_lines_now_and_then(clock, monkeypatch):
  log = io.StringIO()
  monkeypatch.setattr(sys, "stderr", log)
  with progress.progress_bar(2400, 400, "teacher", "steps") as bar:
    for _ in range(100):
      clock.now += 1.0
      bar.update(2)
      bar.set_postfix({"loss": "1.23"}, refresh=False)
    assert log.getvalue().splitlines() == [
      f"teacher: {400 + 40 * i}/2400 steps, 2 steps/s, {left} left{', loss 1.23'}"
      for i, left in enumerate(["16 min", "16 min", "16 min", "15 min", "15 min"], 1)
    ]
    bar.update(1800)
  assert log.getvalue().splitlines()[5:] == ["teacher: 2400/2400 steps, 20 steps/s, loss 1.23"]
  assert "\r" not in log.getvalue() and log.getvalue().endswith("\n")


def test_a_line_is_not_said_twice_nor_one_of_nothing(clock, monkeypatch):
  log = io.StringIO()
  monkeypatch.setattr(sys, "stderr", log)
  with progress.progress_bar(30, 10, "teacher", "steps") as bar:
    clock.now += 40.0
    bar.update(20)
  progress.progress_bar(10, 10, "distill", "steps").close()
  assert log.getvalue() == "teacher: 30/30 steps, 0.5 steps/s\n"


def test_what_takes_a_moment_shows_nothing(clock, monkeypatch):
  log = io.StringIO()
  monkeypatch.setattr(sys, "stderr", log)
  for seconds in (1.9, 2.1):
    with progress.progress_bar(1000, 0, "reading", "images", delay=2.0) as bar:
      clock.now += seconds
      bar.update(1000)
  assert log.getvalue() == "reading: 1000/1000 images, 476 images/s\n"


def test_a_terminal_has_a_bar_and_lines_that_give_way(monkeypatch):
  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  progress.say("teacher: compiling …", until_next=True)
  progress.say("teacher: compiled in 8.2 s")
  assert terminal.getvalue() == "teacher: compiling …\rteacher: compiled in 8.2 s\n"
  with progress.progress_bar(10, 0, "teacher", "steps") as bar:
    bar.update(10)
  assert "teacher: 100%" in terminal.getvalue() and "10/10 [" in terminal.getvalue()
  monkeypatch.setattr(sys, "stderr", io.StringIO())
  progress.say("teacher: compiling …", until_next=True)
  assert sys.stderr.getvalue() == "teacher: compiling …\n"


@pytest.mark.parametrize(
  ("seconds", "text"),
  [
    (0.04, "0.0 s"),
    (8.24, "8.2 s"),
    (9.97, "10 s"),
    (119, "119 s"),
    (120, "2 min"),
    (3569, "59 min"),
    (3575, "1 h 00 min"),
    (11100, "3 h 05 min"),
    (86399, "1 d 0 h"),
    (187200, "2 d 4 h"),
  ],
)
def test_durations(seconds, text):
  assert progress.duration(seconds) == text
