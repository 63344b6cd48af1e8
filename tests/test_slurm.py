"""launch/slurm.sbatch under a real Slurm: slurmctld and slurmd with one node, this machine."""

import getpass
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import pytest

from tests.test_main import TINY

ROOT = pathlib.Path(__file__).parents[1]

# Debian keeps the daemons where only root looks.
_PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
pytestmark = pytest.mark.skipif(
  not all(shutil.which(name, path=_PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch")),
  reason="Slurm is not installed (apt install slurm-wlm)",
)

# A requeued job waits until the credential of its last start has expired: that is cred_expire.
# The node is named localhost, for jax looks up its name to reach the coordinator.
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=localhost Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
  """Submits jobs and tells how they do."""

  def __init__(self, folder: pathlib.Path):
    self.environment = os.environ | {"PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}

  def run(self, *command, **environment) -> str:
    done = subprocess.run(
      command,
      cwd=ROOT,
      env=self.environment | environment,
      capture_output=True,
      text=True,
      timeout=30,
    )
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()

  def field(self, job: str, name: str) -> str:
    return re.search(rf"\b{name}=(\S+)", self.run("scontrol", "show", "job", job))[1]

  def wait(self, job: str, *states: str, seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while (state := self.field(job, "JobState")) not in states:
      assert time.monotonic() < deadline, f"job {job} is {state}, not one of {states}"
      time.sleep(0.2)
    return state

  def submit(self, output: pathlib.Path, *arguments, name: str = "test", **environment) -> str:
    return self.run(
      "sbatch",
      "--parsable",
      f"--job-name={name}",
      f"--output={output}",
      "--nodes=1",
      "--ntasks-per-node=2",
      "launch/slurm.sbatch",
      *arguments,
      **environment,
    )


@pytest.fixture(scope="module")
def cluster():
  # The path of a socket has to be short, and munge wants a folder that all may enter.
  folder = pathlib.Path(tempfile.mkdtemp(prefix="slurm"))
  folder.chmod(0o755)
  (folder / "state").mkdir()
  (folder / "spool").mkdir()
  key = folder / "munge.key"
  key.write_bytes(os.urandom(128))
  key.chmod(0o600)
  ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
  settings = {
    "folder": folder,
    "host": socket.gethostname().split(".")[0],
    "user": getpass.getuser(),
    "ports": [port.getsockname()[1] for port in ports],
  }
  for port in ports:
    port.close()
  (folder / "slurm.conf").write_text(_CONF.format(**settings))
  cluster = Cluster(folder)
  options = [
    f"--{name}={folder}/munge.{ending}"
    for name, ending in (
      ("socket", "socket"),
      ("key-file", "key"),
      ("log-file", "log"),
      ("pid-file", "pid"),
      ("seed-file", "seed"),
    )
  ]
  processes = []
  try:
    for command in (["munged", "--foreground", *options], ["slurmctld", "-D"], ["slurmd", "-D"]):
      with open(folder / f"{command[0]}.out", "w") as out:
        processes.append(
          subprocess.Popen(command, env=cluster.environment, stdout=out, stderr=subprocess.STDOUT)
        )
    deadline = time.monotonic() + 30
    while "idle" not in _sinfo(cluster):
      assert time.monotonic() < deadline, "\n".join(
        f"{path.name}: {path.read_text()[-2000:]}" for path in folder.glob("*.[lo][ou][gt]")
      )
      time.sleep(0.2)
    yield cluster
    # Tasks outlive slurmd.
    cluster.run("scancel", f"--user={getpass.getuser()}")
    deadline = time.monotonic() + 20
    while cluster.run("squeue", "--noheader") and time.monotonic() < deadline:
      time.sleep(0.2)
  finally:
    for process in reversed(processes):
      process.terminate()
      process.wait(timeout=20)
    shutil.rmtree(folder)


def _sinfo(cluster: Cluster) -> str:
  command = ["sinfo", "--noheader", "--format=%T"]
  done = subprocess.run(command, env=cluster.environment, capture_output=True, text=True)
  return done.stdout


def _venv(folder: pathlib.Path, program: str) -> str:
  """A stand-in for a virtual environment, whose python runs a shell program."""
  python = folder / "venv" / "bin" / "python"
  python.parent.mkdir(parents=True)
  python.write_text("#!/bin/sh\n" + program)
  python.chmod(0o755)
  return str(folder / "venv")


def _wait_for(output: pathlib.Path, text: str, count: int) -> None:
  deadline = time.monotonic() + 30
  while not output.exists() or output.read_text().count(text) < count:
    assert time.monotonic() < deadline, output.exists() and output.read_text()
    time.sleep(0.1)


def test_two_tasks_train_together(cluster, tmp_path):
  output, workdir = tmp_path / "out", tmp_path / "run"
  config, *overrides = TINY
  job = cluster.submit(
    output,
    *overrides,
    "--config.phases=('teacher',)",
    CONFIG=config.removeprefix("--config="),
    WORKDIR=str(workdir),
    VENV=sys.prefix,
    JAX_PLATFORMS="cpu",
    XLA_FLAGS="",
  )
  state = cluster.wait(job, "COMPLETED", "FAILED", "CANCELLED", seconds=80)
  printed = output.read_text()
  assert state == "COMPLETED", printed
  assert "2 cpu device(s)" in printed, printed
  assert (workdir / "teacher" / "checkpoints" / "20").is_dir()


# Answers a SIGTERM as main does, and finds its work done when it is started again.
_STOPPABLE = """
[ ! -e "$WORKDIR/stopped.$SLURM_PROCID" ] || { echo resumed; exit 0; }
trap 'touch "$WORKDIR/stopped.$SLURM_PROCID"; exit 143' TERM
echo ready
while true; do sleep 0.1; done
"""


def test_a_stopped_job_is_queued_again_and_its_double_waits(cluster, tmp_path):
  output = tmp_path / "out"
  settings = {"CONFIG": "any", "WORKDIR": str(tmp_path), "VENV": _venv(tmp_path, _STOPPABLE)}
  job = cluster.submit(output, **settings)
  double = cluster.submit(tmp_path / "double", **settings)
  _wait_for(output, "ready", 2)
  cluster.run("scancel", "--signal=TERM", job)  # as --signal and preemption do: to the tasks
  cluster.wait(job, "PENDING", seconds=20)
  assert cluster.field(double, "Reason") == "Dependency"
  cluster.wait(job, "COMPLETED", seconds=40)
  assert cluster.field(job, "Restarts") == "1"
  assert output.read_text().count("resumed") == 2
  cluster.wait(double, "COMPLETED", seconds=20)


def test_a_cancelled_job_stays_cancelled(cluster, tmp_path):
  output = tmp_path / "out"
  venv = _venv(tmp_path, _STOPPABLE)
  job = cluster.submit(output, CONFIG="any", WORKDIR=str(tmp_path), VENV=venv)
  _wait_for(output, "ready", 2)
  cluster.run("scancel", job)
  _wait_for(output, "exit code 143", 1)
  assert cluster.wait(job, "CANCELLED", seconds=20)
  assert cluster.field(job, "Restarts") == "0"


def test_a_wrong_config_fails_at_once(cluster, tmp_path):
  venv = _venv(tmp_path, "exit 2\n")
  job = cluster.submit(tmp_path / "out", CONFIG="any", WORKDIR=str(tmp_path), VENV=venv)
  cluster.wait(job, "FAILED", seconds=20)
  assert cluster.field(job, "ExitCode") == "2:0"
