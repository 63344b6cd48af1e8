"""Ctrl-C and SIGTERM: one line, wherever the program is, and the exit code of the signal."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest

from dmmd_jax import signals
from tests.conftest import ONE_DEVICE
from tests.test_main import run_main
from tests.test_training import TOY, newest

BEGIN = """
from dmmd_jax import signals
signals.end_in_one_line("prog", "; what then")
signals.at_end(lambda: print("cleaned", flush=True))
"""

PLACES = {
  "python": "while True: pass",
  "a_c_call": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
  "nothing_to_save": "with signals.Noted(): import time; time.sleep(60)",
}


@contextlib.contextmanager
def program(*args):
  """A process which says "ready", unless it is to be stopped before; not as a shell's job is."""
  previous = signal.signal(signal.SIGINT, signal.default_int_handler)
  pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
  process = subprocess.Popen([sys.executable, *args], **pipes, env=os.environ | ONE_DEVICE)
  signal.signal(signal.SIGINT, previous)
  try:
    yield process
  finally:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_program_ends_in_one_line_wherever_it_is(place, number):
  with program("-c", f"{BEGIN}print('ready', flush=True)\n{place}") as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
  name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
  assert err == f"prog: stopped by {name}; what then\n"
  assert out == "cleaned\n"


SHOWN = """
import sys, types
show = lambda piece: print(repr(piece), flush=True)
sys.stderr = types.SimpleNamespace(isatty=lambda: False, flush=lambda: None, write=show)
print("ready", flush=True)
while True: pass
"""


def test_the_line_is_written_in_one_piece_into_which_no_other_thread_can_write():
  with program("-c", BEGIN + SHOWN) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=10)
  assert out.splitlines() == [repr("prog: stopped by Ctrl-C; what then\n"), "cleaned"]


SAVING = """
import time
with signals.Noted() as noted:
  noted.armed = True
  print("ready", flush=True)
  while not noted.number: time.sleep(.01)
  print("noted", noted.number, flush=True)
  time.sleep(60)
"""


def test_the_first_one_is_noted_where_there_is_something_to_save_and_the_second_ends():
  with program("-c", BEGIN + SAVING) as process:
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "noted 2\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[1] == "prog: stopped by SIGTERM; what then\n"
    assert process.returncode == 143


def test_without_a_program_of_ours_around_it_the_second_one_is_python_s():
  with pytest.raises(KeyboardInterrupt), signals.Noted() as noted:
    noted.armed = True
    os.kill(os.getpid(), signal.SIGINT)
    assert noted.number == signal.SIGINT
    os.kill(os.getpid(), signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


FORK = """
import os, signal, time
child = os.fork()
if not child:
  time.sleep(5)
  os._exit(0)
time.sleep(.1)
os.kill(child, signal.SIGTERM)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
time.sleep(.1)
print("goes on")
"""


def test_a_fork_dies_alone():
  with program("-c", BEGIN + FORK) as process:
    assert process.communicate(timeout=10) == ("goes on\n", "") and process.returncode == 0


def test_a_run_stops_in_one_line_while_it_starts_and_saves_when_it_trains(tmp_path):
  args = [*TOY, "--config.phases=('teacher',)", "--config.teacher.num_steps=100000"]
  args = ["-X", "importtime", "-m", "dmmd_jax.main", *args, f"--workdir={tmp_path / 'run'}"]
  with program(*args) as process:
    for line in process.stderr:
      if "jax._src" in line:  # in the midst of its imports
        break
    process.send_signal(signal.SIGINT)
    lines = process.communicate(timeout=20)[1].splitlines(True)
    said = [line for line in lines if not line.startswith("import time:")]
    assert process.returncode == 130
  assert said == [
    "dmmd_jax: stopped by Ctrl-C; the same command goes on from the last checkpoint\n"
  ]
  assert not (tmp_path / "run").exists()
  with program(*args[2:]) as process:
    while newest(tmp_path / "run" / "teacher") < 7 and process.poll() is None:
      pass
    second = run_main(*args[4:], **ONE_DEVICE)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1].splitlines()
    assert process.returncode == 130, err
  step = newest(tmp_path / "run" / "teacher")
  assert err[-1] == f"dmmd_jax: stopped teacher at step {step}, saved; run again to continue"
  assert not any("Traceback" in line for line in err)
  assert second.returncode == 2 and second.stderr.count("\n") == 1, second.stderr
  assert f"run is in use by process {process.pid} on" in second.stderr
  assert {path.name for path in (tmp_path / "run").iterdir()} == {"teacher"}
