"""launch/cloud_tpu.sh: what it asks of gcloud, and the worker on each host."""

import shlex
import shutil
import time

import pytest

from tests.launch.conftest import LAUNCH, PHASES, ROOT, RUN, refused

TPU = {"TPU_NAME": "mine", "ZONE": "us-west4-a"}


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
  refused(shell.run("cloud_tpu.sh", *arguments, **environment), *words)
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


@pytest.mark.parametrize(("code", "calls"), [(2, 1), (3, 1), (1, 6)])
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
