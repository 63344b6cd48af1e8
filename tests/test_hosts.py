"""Two processes of several virtual devices each, joined over loopback, against one of all."""

import json
import os
import signal
import socket
import time

import numpy as np
from etils import epath

from dmmd_jax import lock
from tests.conftest import QUICK
from tests.test_main import run_main
from tests.test_training import TOY, equal, final_files, newest


def start(programs, args, num_processes, devices=4, module="dmmd_jax.main"):
  """The processes of one run, that share `devices`."""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = []
  for i in range(num_processes):
    environment = {
      "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // num_processes} {QUICK}",
      "DMMD_PATIENCE_SECONDS": "5",
    }
    if num_processes > 1:
      environment |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(num_processes),
        "JAX_PROCESS_ID": str(i),
      }
    processes.append(programs.start(module, args, **environment))
  return processes


def finish(processes):
  """What they print, once all have ended well."""
  ended = [process.wait(300) for process in processes]
  assert not any(process.code for process in ended), ended
  return [process.out for process in ended]


def results(texts):
  lines = [next(x for x in text.splitlines() if x.startswith("RESULT")) for text in texts]
  return [json.loads(line.removeprefix("RESULT")) for line in lines]


def test_two_processes_have_the_losses_of_one_and_read_half_of_the_data_each(programs, tmp_path):
  found = {}
  for number, axes in ((1, [4, 1, 1]), (2, [1, 2, 2])):
    args = tmp_path / str(number), json.dumps(axes)
    processes = start(programs, args, number, module="tests.train_and_tell")
    found[number] = results(finish(processes))
  (one,), two = found[1], found[2]
  for result in two:
    np.testing.assert_allclose(result["losses"], one["losses"], atol=1e-4)
  # Of the images of the first epoch no two processes read the same one.
  first, second = (set(result["read"]) for result in two)
  assert first and second and not first & second


MAIN = [*TOY, "--config.phases=('teacher',)"]


def steps(workdir):
  return newest(workdir / "teacher")


def wait_for(condition, seconds=120):
  deadline = time.time() + seconds
  while not condition() and time.time() < deadline:
    time.sleep(0.02)
  assert condition()


def test_after_a_kill_and_a_signal_a_run_of_two_processes_ends_bit_identical(programs, tmp_path):
  def command(name):
    return [*MAIN, "--config.teacher.num_steps=35", f"--workdir={tmp_path / name}"]

  texts = finish(start(programs, command("whole"), 2))
  assert "4 cpu devices in 2 processes" in texts[0]
  broken = tmp_path / "broken"

  # One is killed: the other ends.
  processes = start(programs, command("broken"), 2)
  wait_for(lambda: steps(broken) >= 7)
  # First it stops, until the other waits for it: gloo, which is between CPUs what NCCL is between
  # GPUs, may abort a process that it leaves in the middle of an exchange.
  processes[1].send_signal(signal.SIGSTOP)
  time.sleep(2)
  processes[1].send_signal(signal.SIGKILL)
  killed = time.time()
  left = processes[0].wait(100)
  assert left.code == 1 and time.time() - killed < 60, left.err[-4000:]
  processes[1].wait(10)
  said = left.err.strip().splitlines()
  last = said[-1]
  assert ("process 0 stops" in last and "is lost" in last) or "seems to be lost" in last
  assert "Start all of them again" in last
  before = steps(broken)
  assert 7 <= before < 28 and not (broken / "lock").exists()

  # One is told to stop: all stop at the same step.
  processes = start(programs, command("broken"), 2)
  wait_for(lambda: steps(broken) > before)
  processes[1].send_signal(signal.SIGTERM)
  for stopped in [process.wait(100) for process in processes]:
    assert stopped.code == 143 and f"at step {steps(broken)}, saved" in stopped.err, stopped.err
  assert before < steps(broken) < 35

  finish(start(programs, command("broken"), 2))
  final = [final_files(tmp_path / name, "teacher", 35) for name in ("whole", "broken")]
  assert equal(*final)


def test_all_processes_end_when_another_run_has_the_workdir(programs, tmp_path):
  command = [*MAIN, f"--workdir={tmp_path / 'run'}"]
  with lock.hold(epath.Path(tmp_path / "run")):
    ended = [process.wait(100) for process in start(programs, command, 2)]
  for process in ended:
    assert process.code == 2 and process.err.count("\n") == 1, process.err
    assert f"in use by process {os.getpid()} on" in process.err


def test_half_an_address_is_one_clear_line(tmp_path):
  done = run_main(*MAIN, f"--workdir={tmp_path}/w", JAX_NUM_PROCESSES="2", JAX_PLATFORMS="cpu")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert "only JAX_NUM_PROCESSES is set; expected all of JAX_COORDINATOR_ADDRESS" in done.stderr
