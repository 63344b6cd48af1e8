"""launch/kubernetes.sh: JobSets that fit their schema."""

import re

import pytest
import yaml
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet as JobSet

from tests.launch.conftest import PHASES, RUN, refused

POD = RUN | {"IMAGE": "registry/dmmd:1", "CLAIM": "runs", "HOSTS": "4"}


def _rendered(shell, kind: str, *arguments: str, **environment: str) -> dict:
  done = shell.run("kubernetes.sh", "apply", kind, "--dry-run", *arguments, **environment)
  assert done.returncode == 0 and not done.stderr and not shell.calls(), done.stderr
  assert "${" not in done.stdout
  return yaml.safe_load(done.stdout)


def _job(jobset: dict) -> dict:
  return jobset["spec"]["replicatedJobs"][0]["template"]["spec"]


def _action(jobset: dict, code: int) -> str:
  """What the rules of a JobSet do when a pod ends with an exit code; by default a counted restart.

  Kubernetes fails the Job by the pod's rules, and JobSet reads its reason and its message.
  """
  reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
  for i, rule in enumerate(_job(jobset)["podFailurePolicy"]["rules"]):
    if code in rule.get("onExitCodes", {}).get("values", []):
      reason = "PodFailurePolicy"
      message = (
        f"Container main for pod default/x-0 failed with exit code {code} matching"
        f" {rule['action']} rule at index {i}"
      )
      break
  for rule in jobset["spec"]["failurePolicy"]["rules"]:
    patterns = rule.get("onJobFailureMessagePatterns", [""])
    if reason in rule["onJobFailureReasons"] and any(re.search(x, message) for x in patterns):
      return rule["action"]
  return "RestartJobSet"


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
  assert {code: _action(jobset, code) for code in (1, 2, 3, 143)} == {
    1: "RestartJobSet",
    2: "FailJobSet",
    3: "FailJobSet",
    143: "RestartJobSetAndIgnoreMaxRestarts",
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
  refused(shell.run("kubernetes.sh", *arguments, **environment), *words)
  assert not shell.calls()
