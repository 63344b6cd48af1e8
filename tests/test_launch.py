"""The scripts of launch/, with stand-ins for the programs that they call."""

import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import time

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet as JobSet

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted({*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")})
PHASES = "--config.phases=('teacher',)"  # has what a shell and YAML would take for their own

TPU = {"TPU_NAME": "mine", "ZONE": "us-west4-a"}
RUN = {"CONFIG": "configs/coins_dmmd.py", "WORKDIR": "/runs/mine"}
POD = RUN | {"IMAGE": "registry/dmmd:1", "CLAIM": "runs", "HOSTS": "4"}


class Shell:
  """Runs scripts where gcloud, kubectl and the like are stand-ins that note every call."""

  def __init__(self, folder: pathlib.Path):
    self.home = folder / "home"
    self.home.mkdir()
    self.programs = folder / "bin"
    self.programs.mkdir()
    self.log = folder / "calls"
    for name in ("gcloud", "kubectl", "sbatch", "srun", "scontrol"):
      self.stand_in(name, "exit 99")

  def stand_in(self, name: str, program: str) -> None:
    path = self.programs / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.log}\n{program}\n')
    path.chmod(0o755)

  def calls(self) -> list[str]:
    return self.log.read_text().splitlines() if self.log.exists() else []

  def run(self, script: str | pathlib.Path, *arguments: str, **environment: str):
    basic = {
      "PATH": f"{self.programs}:/usr/bin:/bin",
      "HOME": str(self.home),
      "TMPDIR": "/tmp",
      "PAUSE": "0",
    }
    return subprocess.run(
      ["bash", str(LAUNCH / script), *arguments],
      env=basic | environment,
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=30,
    )

  def plan(self, script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """The commands of a dry run, as words; nothing may have been called."""
    done = self.run(script, *arguments, **environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert not self.calls()
    return [shlex.split(line, comments=True) for line in done.stdout.splitlines()]


@pytest.fixture
def shell(tmp_path):
  return Shell(tmp_path)


def _refused(done, *words: str) -> None:
  """In one line, with exit code 2."""
  assert done.returncode == 2, (done.stdout, done.stderr)
  assert done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  shellcheck = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
  done = subprocess.run([shellcheck, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout


# Cloud TPU


def test_tpu_create_plan(shell):
  lookup, create = shell.plan("cloud_tpu.sh", "create", "--dry-run", **TPU, SPOT="1", PROJECT="p")
  assert lookup[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "list"]
  assert create == [
    *("gcloud", "compute", "tpus", "tpu-vm", "create", "mine"),
    *("--accelerator-type=v5litepod-16", "--version=v2-alpha-tpuv5-lite", "--spot"),
    *("--zone=us-west4-a", "--project=p"),
  ]


def test_tpu_install_plan(shell):
  mount = "sudo mount 10.0.0.2:/runs /mnt/runs"
  archive, copy, install = shell.plan("cloud_tpu.sh", "install", "--dry-run", **TPU, SETUP=mount)
  assert archive[:4] == ["git", "-C", str(ROOT), "archive"]
  assert copy[4:8] == ["scp", "/tmp/mine.tar.gz", "mine:dmmd_jax.tar.gz", "--worker=all"]
  assert install[4:7] == ["ssh", "mine", "--worker=all"]
  assert install[7].startswith(f"--command={mount} && mkdir -p dmmd_jax && tar -xzf")
  assert install[7].endswith("--editable=.[tpu,gs]")


def test_tpu_run_plan_keeps_the_arguments_whole(shell):
  environment = TPU | RUN | {"WORKDIR": "/mnt/my runs"}
  (run,) = shell.plan("cloud_tpu.sh", "run", "--dry-run", "--", PHASES, **environment)
  assert run[4:7] == ["ssh", "mine", "--worker=all"]
  remote = shlex.split(run[7].removeprefix("--command="))
  assert remote == [
    *("CONFIG=configs/coins_dmmd.py", "WORKDIR=/mnt/my runs", "RETRIES=5"),
    *("bash", "dmmd_jax/launch/cloud_tpu.sh", "worker-start", "--", PHASES),
  ]


def test_tpu_watch_logs_and_delete_plans(shell):
  verbs = [
    words[4] for words in shell.plan("cloud_tpu.sh", "watch", "mine", "--dry-run", **TPU, **RUN)
  ]
  assert verbs == ["list", "create", "--format=tar.gz", "scp", "ssh", "ssh"]
  (logs,) = shell.plan("cloud_tpu.sh", "logs", "--dry-run", **TPU)
  assert logs[4:8] == ["ssh", "mine", "--worker=0", "--command=tail -n 100 -F dmmd_jax.log"]
  _, delete = shell.plan("cloud_tpu.sh", "delete", "mine", "--dry-run", **TPU)
  assert delete[4:] == ["delete", "mine", "--quiet", "--zone=us-west4-a"]


@pytest.mark.parametrize(
  ("arguments", "environment", "words"),
  [
    (["create"], {"ZONE": "z"}, ["TPU_NAME"]),
    (["create"], {"TPU_NAME": "mine"}, ["ZONE"]),
    (["run"], TPU | {"CONFIG": "c"}, ["WORKDIR"]),
    (["run", "--config.run.seed=1"], TPU | RUN, ["--config.run.seed=1", "after --"]),
    (["create", "mine"], TPU, ["mine"]),
    (["delete"], TPU, ["delete mine"]),
    (["delete", "other"], TPU, ["delete mine"]),
    (["watch"], TPU | RUN, ["watch mine"]),
    (["worker-start"], {}, ["CONFIG"]),
    (["fly"], TPU, ["create, install"]),
    ([], TPU, ["create, install"]),
  ],
)
def test_tpu_refuses(shell, arguments, environment, words):
  _refused(shell.run("cloud_tpu.sh", *arguments, **environment), *words)
  assert not shell.calls()


def test_tpu_create_and_delete_again_do_nothing(shell):
  shell.stand_in("gcloud", '[[ "$*" == *" list "* ]] && printf "mine2,READY\\nmine,READY\\n"')
  done = shell.run("cloud_tpu.sh", "create", **TPU)
  assert done.returncode == 0 and done.stdout == "mine exists: READY\n"
  done = shell.run("cloud_tpu.sh", "delete", "min", **TPU | {"TPU_NAME": "min"})
  assert done.returncode == 0 and done.stdout == "min does not exist\n"
  assert all(" list " in call for call in shell.calls()) and len(shell.calls()) == 2


def test_tpu_create_stops_where_gcloud_fails(shell):
  done = shell.run("cloud_tpu.sh", "create", **TPU)
  assert done.returncode == 99 and len(shell.calls()) == 1


def test_tpu_watch_replaces_a_preempted_node_and_ends_with_the_run(shell, tmp_path):
  """One line of `states` is one look: what `list` says, and then what the workers say."""
  shell.stand_in("git", "")
  states = tmp_path / "states"
  states.write_text("READY\nREPAIRING\nPREEMPTED\n\nREADY\nREADY\n")
  reports = tmp_path / "reports"
  reports.write_text("running\nstopped\nended 0\n")
  take = 'take() { head -n 1 "$1"; sed -i 1d "$1"; }'
  shell.stand_in(
    "gcloud",
    f"""{take}
case "$*" in
  *' list '*) echo "mine,$(take {states})" | grep -v ,$ || true ;;
  *worker-status*) take {reports} ;;
esac""",
  )
  done = shell.run("cloud_tpu.sh", "watch", "mine", "--", PHASES, **TPU, **RUN)
  assert done.returncode == 0 and "finished" in done.stdout, (done.stdout, done.stderr)
  verbs = [call.split()[4] for call in shell.calls() if call.startswith("gcloud")]
  assert verbs == [
    *("list", "ssh"),  # ready and running
    "list",  # in repair
    *("list", "delete"),  # preempted
    *("list", "create", "scp", "ssh", "ssh"),  # absent
    *("list", "ssh", "scp", "ssh", "ssh"),  # a worker does not run
    *("list", "ssh"),  # all have finished
  ]
  assert "delete mine --quiet" in " ".join(shell.calls())


def test_tpu_watch_tells_that_the_run_failed(shell):
  report = "case \"$*\" in *' list '*) echo mine,READY ;; *) echo ended 2 ;; esac"
  shell.stand_in("gcloud", report)
  done = shell.run("cloud_tpu.sh", "watch", "mine", **TPU, **RUN)
  assert done.returncode == 1 and "failed" in done.stdout


@pytest.fixture
def worker(shell, tmp_path):
  """A worker of a slice: the launcher in a folder of its own, with a python of our choice."""
  code = tmp_path / "dmmd_jax"
  (code / "launch").mkdir(parents=True)
  shutil.copy(LAUNCH / "cloud_tpu.sh", code / "launch")

  def start(program: str, *arguments: str):
    (code / ".venv/bin").mkdir(parents=True, exist_ok=True)
    python = code / ".venv/bin/python"
    python.write_text(f'#!/bin/bash\necho "$*" >>{shell.log}\n{program}\n')
    python.chmod(0o755)
    return shell.run(code / "launch/cloud_tpu.sh", "worker-start", *arguments, **RUN)

  start.status = lambda: shell.run(code / "launch/cloud_tpu.sh", "worker-status").stdout.strip()
  return start


def _end(worker) -> str:
  deadline = time.monotonic() + 10
  while (status := worker.status()) == "running":
    assert time.monotonic() < deadline
    time.sleep(0.05)
  return status


def test_worker_goes_on_after_stops_and_some_failures(worker, shell):
  codes = """
codes=(143 1 143 134 143 143 143 0)
n=$(wc -l <"$0.n" 2>/dev/null || echo 0)
echo >>"$0.n"
exit ${codes[n]}"""
  assert worker.status() == "stopped"
  assert worker(codes, "--", PHASES).stdout == "started\n"
  assert _end(worker) == "ended 0"
  call = f"-m dmmd_jax.main --config={RUN['CONFIG']} --workdir={RUN['WORKDIR']} {PHASES}"
  assert shell.calls() == [call] * 8
  assert "exit code 143; starting again" in (shell.home / "dmmd_jax.log").read_text()


@pytest.mark.parametrize(("code", "calls"), [(2, 1), (1, 6)])
def test_worker_gives_up(worker, shell, code, calls):
  worker(f"exit {code}")
  assert _end(worker) == f"ended {code}"
  assert len(shell.calls()) == calls


def test_worker_starts_one_run_at_a_time(worker, shell):
  release = shell.home / "release"
  program = f"for i in {{1..200}}; do [[ -e {release} ]] && break; sleep 0.05; done"
  assert worker(program).stdout == "started\n"
  assert worker.status() == "running"
  assert worker(program).stdout == "already running\n"
  release.touch()
  assert _end(worker) == "ended 0"
  assert len(shell.calls()) == 1


# Slurm, but for what needs a real one: that is in test_slurm.py


def test_slurm_plan(shell):
  run, _, requeue = shell.plan("slurm.sbatch", "--dry-run", PHASES, **RUN, VENV="/v")
  assert run == [
    *("srun", "--kill-on-bad-exit=0", "/v/bin/python", "-m", "dmmd_jax.main"),
    *("--config=configs/coins_dmmd.py", "--workdir=/runs/mine", PHASES),
  ]
  assert requeue == ["scontrol", "requeue", "JOB"]


def test_slurm_refuses(shell):
  _refused(shell.run("slurm.sbatch", WORKDIR="w"), "CONFIG")
  _refused(shell.run("slurm.sbatch", "--dry-run", CONFIG="c"), "WORKDIR")
  _refused(shell.run("slurm.sbatch", **RUN), "sbatch")
  assert not shell.calls()


@pytest.mark.parametrize(("tasks", "ids"), [("2", "0,1,2,3"), ("8", "")])
def test_slurm_gives_a_task_that_is_alone_on_its_node_all_gpus(shell, tasks, ids):
  shell.stand_in("srun", f'echo "ids $JAX_LOCAL_DEVICE_IDS cpus $SRUN_CPUS_PER_TASK" >>{shell.log}')
  job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "12"}
  done = shell.run("slurm.sbatch", **RUN, **job, SLURM_GPUS_ON_NODE="4", SLURM_NTASKS=tasks)
  assert done.returncode == 0, done.stderr
  assert shell.calls()[1] == f"ids {ids} cpus 12"


# Kubernetes


def _rendered(shell, kind: str, *arguments: str, **environment: str) -> dict:
  done = shell.run("kubernetes.sh", "apply", kind, "--dry-run", *arguments, **environment)
  assert done.returncode == 0 and not done.stderr and not shell.calls(), done.stderr
  assert "${" not in done.stdout
  return yaml.safe_load(done.stdout)


def _job(jobset: dict) -> dict:
  return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def _fits_the_schema(jobset: dict) -> bool:
  """Whether the classes made from the schema of JobSet take all of it, and keep all of it."""
  return JobSet.from_dict(jobset).to_dict() == jobset


def test_kubernetes_takes_a_workdir_in_a_bucket(shell):
  job = _job(_rendered(shell, "tpu", **POD | {"WORKDIR": "gs://bucket/mine"}))
  assert "--workdir=gs://bucket/mine" in job["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_kubernetes_renders_a_valid_jobset(shell, kind):
  jobset = _rendered(shell, kind, "--", PHASES, "it's", **POD)
  assert _fits_the_schema(jobset)
  assert jobset["metadata"]["name"] == f"dmmd-{kind}"
  job = _job(jobset)
  assert job["completions"] == job["parallelism"] == 4
  container = job["template"]["spec"]["containers"][0]
  assert container["image"] == "registry/dmmd:1"
  assert container["args"] == [
    *("--config=configs/coins_dmmd.py", "--workdir=/runs/mine", PHASES, "it's")
  ]
  assert job["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "runs"}
  actions = {rule["name"]: rule["action"] for rule in jobset["spec"]["failurePolicy"]["rules"]}
  assert actions == {
    "wrongConfig": "FailJobSet",
    "preempted": "RestartJobSetAndIgnoreMaxRestarts",
  }


def test_the_schema_finds_mistakes(shell):
  def broken(change) -> bool:
    jobset = _rendered(shell, "gpu", **POD)
    change(jobset)
    try:
      return not _fits_the_schema(jobset)
    except ValueError:  # pydantic's is one
      return True

  assert not broken(lambda jobset: None)
  assert broken(lambda jobset: jobset["spec"].update(maxRestarts=3))
  assert broken(lambda jobset: jobset["spec"]["failurePolicy"].update(maxRestarts="3"))
  assert broken(lambda jobset: _job(jobset).update(completions="4"))
  assert broken(lambda jobset: _job(jobset)["template"]["spec"].pop("containers"))
  assert broken(lambda jobset: jobset["spec"]["replicatedJobs"][0].pop("name"))


def test_kubernetes_tells_gpu_pods_of_each_other(shell):
  jobset = _rendered(shell, "gpu", **POD, NAME="coins", GPUS="2")
  container = _job(jobset)["template"]["spec"]["containers"][0]
  values = {entry["name"]: entry.get("value") for entry in container["env"]}
  # <JobSet>-<replicated job>-<Job>-<pod>.<subdomain>
  assert values["JAX_COORDINATOR_ADDRESS"] == "coins-worker-0-0.coins:8476"
  assert jobset["spec"]["network"]["subdomain"] == "coins"
  assert values["JAX_NUM_PROCESSES"] == "4"
  assert set(values) == {"JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"}
  assert container["resources"]["limits"] == {"nvidia.com/gpu": 2}


def test_kubernetes_asks_for_the_slice(shell):
  jobset = _rendered(shell, "tpu", **POD, TPU_TOPOLOGY="2x4", TPUS="8")
  pod = _job(jobset)["template"]["spec"]
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "2x4"
  assert pod["containers"][0]["resources"]["limits"] == {"google.com/tpu": 8}


def test_kubernetes_plans(shell):
  (logs,) = shell.plan("kubernetes.sh", "logs", "dmmd-tpu", "--dry-run")
  assert logs[:3] == ["kubectl", "logs", "--follow"]
  assert "jobset-name=dmmd-tpu,batch.kubernetes.io/job-completion-index=0" in logs[-1]
  (delete,) = shell.plan("kubernetes.sh", "delete", "dmmd-tpu", "--dry-run")
  assert delete == ["kubectl", "delete", "jobset", "dmmd-tpu", "--ignore-not-found"]


def test_kubernetes_applies_what_it_shows(shell):
  shown = shell.run("kubernetes.sh", "apply", "tpu", "--dry-run", **POD).stdout
  shell.stand_in("kubectl", "cat")
  assert shell.run("kubernetes.sh", "apply", "tpu", **POD).stdout == shown
  assert shell.calls() == ["kubectl apply --filename=-"]


@pytest.mark.parametrize(
  ("arguments", "environment", "words"),
  [
    (["apply"], POD, ["apply tpu"]),
    (["apply", "cpu"], POD, ["apply tpu"]),
    (["apply", "tpu"], {**POD, "IMAGE": ""}, ["IMAGE"]),
    (["apply", "gpu"], {**POD, "HOSTS": ""}, ["HOSTS"]),
    (["apply", "gpu"], {**POD, "WORKDIR": "runs/mine"}, ["/runs", "gs://"]),
    (["apply", "gpu", "--config.run.seed=1"], POD, ["after --"]),
    (["delete"], POD, ["delete NAME"]),
    (["logs"], POD, ["logs NAME"]),
    ([], POD, ["apply, logs or delete"]),
  ],
)
def test_kubernetes_refuses(shell, arguments, environment, words):
  _refused(shell.run("kubernetes.sh", *arguments, **environment), *words)
  assert not shell.calls()
