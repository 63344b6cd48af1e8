"""Two processes of several virtual devices each, joined over loopback, against one of all."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from etils import epath

from dmmd_jax import lock
from tests.conftest import ONE_DEVICE, QUICK
from tests.test_main import run_main
from tests.test_training import TOY, equal, final_files, newest

ROOT = pathlib.Path(__file__).parents[1]


def start(command, num_processes, log, devices=4):
  """The processes of one run, that share `devices`; what they print goes to `log`.0, `log`.1 …"""
  with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
  processes = []
  for i in range(num_processes):
    environment = (
      os.environ
      | ONE_DEVICE
      | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices // num_processes} {QUICK}",
        "DMMD_PATIENCE_SECONDS": "10",
      }
    )
    if num_processes > 1:
      environment |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": str(num_processes),
        "JAX_PROCESS_ID": str(i),
      }
    with open(f"{log}.{i}", "w") as file:
      processes.append(
        subprocess.Popen([sys.executable, *command], env=environment, stdout=file, stderr=file)
      )
  return processes


def finish(processes, log):
  codes = [process.wait(timeout=300) for process in processes]
  texts = [pathlib.Path(f"{log}.{i}").read_text() for i in range(len(processes))]
  assert not any(codes), (codes, texts)
  return texts


# Trains a small student and prints its losses, and how many examples this process has read.
LOSSES = """
import json, sys
from dmmd_jax import hosts
hosts.join()
import jax, numpy as np
from dmmd_jax import parallel, training
from dmmd_jax.data.pipeline import Batches, Dataset
from tests.test_parallel import parts_of, small_config

class Counting:
  def __init__(self, images):
    self.images, self.shape, self.read = images, images.shape, set()
  def __len__(self):
    return len(self.images)
  def __getitem__(self, i):
    self.read.add(int(i))
    return self.images[i]

config = small_config("transformer")
config.run.tensorboard = False
data, init, step, size = parts_of(config, "distill")
source = Counting(data.train)
dataset = Dataset(source, data.held_out, 17)
job = training.Job("test", 4, lambda key, _: init(key), step, Batches(dataset, size, seed=0))
losses, add = [], training.TrainingLog.add
def note(self, step, metrics):
  losses.append(float(metrics["auxiliary_loss"]))
  add(self, step, metrics)
training.TrainingLog.add = note
mesh = parallel.make_mesh(json.loads(sys.argv[2]))
import pathlib
training.train(job, pathlib.Path(sys.argv[1]), config.run, mesh)
print("RESULT", json.dumps({"losses": losses, "read": sorted(source.read)}))
"""


def results(texts):
  lines = [next(x for x in text.splitlines() if x.startswith("RESULT")) for text in texts]
  return [json.loads(line.removeprefix("RESULT")) for line in lines]


def test_two_processes_have_the_losses_of_one_and_read_half_of_the_data_each(tmp_path):
  program = tmp_path / "program.py"
  program.write_text(LOSSES)
  found = {}
  for number, axes in ((1, [8, 1, 1]), (2, [2, 2, 2])):
    name = f"{number}-{axes}"
    command = [program, tmp_path / name, json.dumps(axes)]
    processes = start(command, number, tmp_path / name, devices=8)
    found[name] = results(finish(processes, tmp_path / name))
  (one,), two = found.values()
  for result in two:
    np.testing.assert_allclose(result["losses"], one["losses"], atol=1e-4)
  # Of the images of the first epoch no two processes read the same one.
  first, second = (set(result["read"]) for result in two)
  assert first and second and not first & second


MAIN = ["-m", "dmmd_jax.main", *TOY, "--config.phases=('teacher',)"]


def steps(workdir):
  return newest(workdir / "teacher")


def wait_for(condition, seconds=120):
  deadline = time.time() + seconds
  while not condition() and time.time() < deadline:
    time.sleep(0.02)
  assert condition()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of two processes that nothing disturbs."""
  folder = tmp_path_factory.mktemp("whole")
  command = [*MAIN, f"--workdir={folder / 'run'}", "--config.teacher.num_steps=35"]
  texts = finish(start(command, 2, folder / "log"), folder / "log")
  assert "4 cpu devices in 2 processes" in texts[0]
  return final_files(folder / "run", "teacher", 35)


def test_when_one_is_killed_the_other_ends_and_both_resume_bit_identical(tmp_path, whole):
  workdir = tmp_path / "run"
  command = [*MAIN, f"--workdir={workdir}", "--config.teacher.num_steps=35"]
  processes = start(command, 2, tmp_path / "killed")
  wait_for(lambda: steps(workdir) >= 7)
  # First it stops, until the other waits for it: gloo, which is between CPUs what NCCL is between
  # GPUs, may abort a process that it leaves in the middle of an exchange.
  processes[1].send_signal(signal.SIGSTOP)
  time.sleep(2)
  processes[1].send_signal(signal.SIGKILL)
  killed = time.time()
  code = processes[0].wait(timeout=100)
  said = (tmp_path / "killed.0").read_text().strip().splitlines()
  assert code == 1 and time.time() - killed < 60, "\n".join(said[-40:])
  last = said[-1]
  assert ("process 0 stops" in last and "is lost" in last) or "seems to be lost" in last
  assert "Start all of them again" in last
  assert 7 <= steps(workdir) < 35 and not (workdir / "lock").exists()
  finish(start(command, 2, tmp_path / "again"), tmp_path / "again")
  assert equal(final_files(workdir, "teacher", 35), whole)


def test_a_signal_to_one_stops_all_at_the_same_step_and_another_mesh_goes_on(tmp_path, whole):
  workdir = tmp_path / "run"
  command = [*MAIN, f"--workdir={workdir}", "--config.teacher.num_steps=35"]
  processes = start(command, 2, tmp_path / "stopped")
  wait_for(lambda: steps(workdir) >= 7)
  processes[1].send_signal(signal.SIGTERM)
  assert [process.wait(timeout=100) for process in processes] == [143, 143]
  for i in (0, 1):
    assert f"at step {steps(workdir)}, saved" in (tmp_path / f"stopped.{i}").read_text()
  assert steps(workdir) < 35
  other = [*command, "--config.run.mesh=(1,-1,1)"]
  finish(start(other, 1, tmp_path / "other"), tmp_path / "other")
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3),
    final_files(workdir, "teacher", 35),
    whole,
  )


def test_all_processes_end_when_another_run_has_the_workdir(tmp_path):
  command = [*MAIN, f"--workdir={tmp_path / 'run'}"]
  with lock.hold(epath.Path(tmp_path / "run")):
    processes = start(command, 2, tmp_path / "second")
    assert [process.wait(timeout=100) for process in processes] == [2, 2]
  for i in (0, 1):
    said = (tmp_path / f"second.{i}").read_text()
    assert f"in use by process {os.getpid()} on" in said and said.count("\n") == 1, said


def test_half_an_address_is_one_clear_line(tmp_path):
  done = run_main(*MAIN[2:], f"--workdir={tmp_path}/w", JAX_NUM_PROCESSES="2", JAX_PLATFORMS="cpu")
  assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
  assert "only JAX_NUM_PROCESSES is set; expected all of JAX_COORDINATOR_ADDRESS" in done.stderr
