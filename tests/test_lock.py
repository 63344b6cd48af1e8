"""One run at a time in a workdir: who holds it, who is dead, and who wins a race."""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from etils import epath

from dmmd_jax import lock, lock_holder
from dmmd_jax.config import ConfigError

HOLDER = """
import sys, time
from etils import epath
from dmmd_jax import lock
lock._BEAT_SECONDS = 0.05
with lock.hold(epath.Path(sys.argv[1])):
  print("held", flush=True)
  time.sleep(60)
"""


@contextlib.contextmanager
def holder(workdir):
  """Another process that holds the lock; a zombie, not reaped, when it is killed."""
  command = [sys.executable, "-c", HOLDER, str(workdir)]
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  with subprocess.Popen(command, **pipes) as process:
    try:
      assert process.stdout.readline() == "held\n"
      yield process
    finally:
      process.kill()


def left_behind(workdir, **changes):
  """The lock of a run that was killed; of this process but for `changes`."""
  workdir.mkdir(parents=True, exist_ok=True)
  (workdir / "lock").write_text(json.dumps(lock_holder.identity() | changes))


@pytest.fixture
def impatient(monkeypatch):
  monkeypatch.setattr(lock, "_PATIENCE_SECONDS", 0.6)


def test_who_comes_second_learns_who_holds_it_and_a_killed_run_is_replaced_at_once(tmp_path):
  workdir = epath.Path(tmp_path / "run")
  with holder(workdir) as process:
    with pytest.raises(ConfigError) as error, lock.hold(workdir):
      pass
    assert f"in use by process {process.pid} on {socket.gethostname()} since 2" in str(error.value)
    process.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    start = time.monotonic()
    with lock.hold(workdir):
      assert json.loads((workdir / "lock").read_text())["pid"] == os.getpid()
    assert time.monotonic() - start < 1
  assert not (workdir / "lock").exists()


def test_what_a_run_has_left_stays_and_an_empty_folder_does_not(tmp_path):
  for leaves in (True, False):
    with lock.hold(epath.Path(tmp_path / "runs" / "mine")):
      assert [path.name for path in (tmp_path / "runs" / "mine").iterdir()] == ["lock"]
      if leaves:
        (tmp_path / "runs" / "mine" / "results").write_text("")
    assert (tmp_path / "runs").exists() == leaves
    if leaves:
      (tmp_path / "runs" / "mine" / "results").unlink()
      (tmp_path / "runs" / "mine").rmdir()
      (tmp_path / "runs").rmdir()


@pytest.mark.parametrize(
  "changes", [{"started": "1"}, {"pid": 2**22 + 1}], ids=["its_id_is_another's", "gone"]
)
def test_a_dead_process_of_this_machine_is_dead_at_once(tmp_path, changes):
  left_behind(tmp_path, **changes)
  with lock.hold(epath.Path(tmp_path)):
    pass


ELSEWHERE = {
  "host": {"host": "elsewhere"},
  "restarted": {"boot": "another"},
  "container": {"space": 1},  # its process 1 is not ours, though ours is alive
}


@pytest.mark.parametrize("changes", ELSEWHERE.values(), ids=ELSEWHERE)
def test_of_a_process_that_cannot_be_seen_signs_of_life_decide(tmp_path, changes, impatient):
  left_behind(tmp_path, pid=1, **changes)
  beating = threading.Event()

  def beat():
    while not beating.wait(0.1):
      os.utime(tmp_path / "lock")

  thread = threading.Thread(target=beat)
  thread.start()
  with pytest.raises(ConfigError, match="in use by process 1 on"), lock.hold(epath.Path(tmp_path)):
    pass
  beating.set()
  thread.join()
  with lock.hold(epath.Path(tmp_path)):
    assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_damaged_lock_is_taken_over_when_it_shows_no_life(tmp_path, impatient):
  for text in ("", "[1]", '{"pid": 1}'):
    (tmp_path / "lock").write_text(text)
    with lock.hold(epath.Path(tmp_path)):
      pass


def test_a_folder_in_the_place_of_the_lock_is_one_line(tmp_path):
  (tmp_path / "lock").mkdir()
  message = r"lock is a folder; expected the lock of a run"
  with pytest.raises(ConfigError, match=message), lock.hold(tmp_path):
    pass
  assert (tmp_path / "lock").is_dir()


def test_of_many_that_start_at_once_one_wins(tmp_path):
  for round in range(20):
    workdir = tmp_path / str(round)
    left_behind(workdir, pid=2**22 + 1)
    barrier, winners = threading.Barrier(8), []

    def start(barrier=barrier, winners=winners, workdir=workdir):
      barrier.wait()
      with contextlib.suppress(ConfigError):
        winners.append(lock._take(lock._File(workdir), workdir))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
    holds = (workdir / "lock").read_text()
    assert winners == [holds]
    assert [path.name for path in workdir.iterdir()] == ["lock"]


def test_a_file_system_without_links(tmp_path, monkeypatch):
  def link(*_):
    raise OSError("no links here")

  monkeypatch.setattr(os, "link", link)
  left_behind(tmp_path, pid=2**22 + 1)
  with (
    lock.hold(epath.Path(tmp_path)),
    pytest.raises(ConfigError, match=f"process {os.getpid()}"),
    lock.hold(epath.Path(tmp_path)),
  ):
    pass
  assert not (tmp_path / "lock").exists()


def test_a_run_that_was_replaced_while_it_slept_ends_and_leaves_the_lock(tmp_path):
  with holder(tmp_path) as process:
    left_behind(tmp_path)
    assert process.wait(timeout=10) == 2
    said = process.stderr.read()
  assert said.count("\n") == 1 and "another run has taken over" in said
  assert json.loads(pathlib.Path(tmp_path / "lock").read_text())["pid"] == os.getpid()
