"""What a workdir holds: one folder a phase, with its config and its checkpoints. Pure Python."""

import json
import logging
import os
import pathlib

from etils import epath
from ml_collections import ConfigDict

from dmmd_jax.config import ConfigError, differences

# What a phase's result depends on; `run` holds what does not change it, but for the seed.
_SECTIONS = {
  "teacher": ("dataset", "process", "network", "teacher"),
  "reference": ("dataset", "network", "reference"),
  "distill": ("dataset", "process", "network", "teacher", "distill"),
  "evaluate": ("dataset", "process", "network", "teacher", "reference", "distill", "evaluate"),
}


# What orbax and the phases ask of a bucket.
_READ = ("storage.buckets.get", "storage.objects.get", "storage.objects.list")
_WRITE = ("storage.objects.create", "storage.objects.delete")


def locate(name: str, write: bool = False) -> epath.Path:
  """A workdir by its name: a folder, or `gs://bucket/folder` of a bucket that may be used.

  Raises `ConfigError` for any other, and where Google Cloud Storage keeps us out.
  """
  scheme, is_url, rest = name.partition("://")
  if is_url and (scheme != "gs" or rest.startswith("/") or not rest):
    raise ConfigError(f"workdir {name} is unknown storage; expected a folder or gs://bucket/folder")
  folder = epath.Path(name)
  if is_url:
    _check_bucket(rest.split("/")[0], folder, _READ + _WRITE if write else _READ)
  return folder


def _check_bucket(bucket: str, folder: epath.Path, permissions: tuple[str, ...]) -> None:
  """Asks now what orbax would find out at the first checkpoint."""
  try:
    from google.cloud import exceptions, storage
  except ImportError as error:
    raise ConfigError(f"{folder} needs google-cloud-storage; pip install 'dmmd_jax[gs]'") from error
  for name in ("google.auth", "urllib3"):  # warn of what the error below says
    logging.getLogger(name).setLevel(logging.ERROR)
  try:
    granted = storage.Client().bucket(bucket).test_iam_permissions(permissions)
    missing = sorted(set(permissions) - set(granted))
    if not missing:
      folder.exists()  # asks by another client, which looks for credentials by itself
  except exceptions.NotFound as error:
    raise ConfigError(f"there is no bucket {bucket}; create it, or name another workdir") from error
  except Exception as error:  # each of these clients has exceptions of its own
    raise ConfigError(
      f"cannot reach {folder} with the credentials of `gcloud auth application-default login`,"
      f" GOOGLE_APPLICATION_CREDENTIALS or this machine's service account: {error}"
    ) from error
  if missing:
    raise ConfigError(
      f"bucket {bucket} does not grant {', '.join(missing)}; expected the roles Storage Object User"
      " and Storage Legacy Bucket Reader, or Storage Admin"
    )


def latest_step(phase_dir: epath.Path) -> int:
  """The step of the last finished checkpoint of a phase; 0 where there is none."""
  checkpoints = phase_dir / "checkpoints"
  names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
  steps = sorted((int(name) for name in names if name.isdecimal()), reverse=True)
  return next((step for step in steps if _is_whole(checkpoints / str(step))), 0)


def _is_whole(checkpoint: epath.Path) -> bool:
  """In a bucket nothing can be renamed at once: orbax writes this file last instead."""
  in_bucket = os.fspath(checkpoint).startswith("gs://")
  return not in_bucket or (checkpoint / "commit_success.txt").exists()


def is_complete(config: ConfigDict, workdir: epath.Path, phase: str) -> bool:
  """Whether `phase` has nothing left to do in `workdir` under this config."""
  if phase == "evaluate":
    done = (workdir / phase / "results.json").exists()
    return done and _recorded(workdir, phase) == _relevant(config, phase)
  return latest_step(workdir / phase) >= config[phase].num_steps


def check(config: ConfigDict, workdir: epath.Path) -> None:
  """Raises `ConfigError` where a phase to run lacks what it needs, or was begun differently."""
  if workdir.exists() and not workdir.is_dir():
    raise ConfigError(f"workdir {workdir} is a file; name a folder")
  for phase in config.phases:
    recorded = _recorded(workdir, phase)
    changed = differences(recorded, _relevant(config, phase)) if recorded else []
    if changed and phase != "evaluate":
      raise ConfigError(
        f"{workdir / phase} was begun with another config ({'; '.join(changed[:3])});"
        " choose another --workdir, or remove that folder to start again"
      )
  _check_needs(config, workdir)


def _check_needs(config: ConfigDict, workdir: epath.Path) -> None:
  """A student always starts from a trained network; evaluating an exact teacher needs none."""
  elsewhere = config.distill.teacher_workdir
  used = "distill" in config.phases or (
    "evaluate" in config.phases and config.distill.teacher != "exact"
  )
  made_now = "teacher" in config.phases and not elsewhere
  teacher_dir = (locate(elsewhere) if elsewhere else workdir) / "teacher"
  if used and not made_now and not latest_step(teacher_dir):
    raise ConfigError(
      f"no trained teacher in {teacher_dir}; run the phase 'teacher' first, or set"
      " distill.teacher_workdir to a workdir that has one"
    )
  if "evaluate" in config.phases and "reference" in config:
    _check_reference(config, workdir)


def _check_reference(config: ConfigDict, workdir: epath.Path) -> None:
  """A text is measured by a language model of the same tokens."""
  c = config.reference
  if c.gpt2:
    if not (pathlib.Path(c.gpt2).expanduser() / "model.safetensors").exists():
      raise ConfigError(
        f"no model.safetensors in {c.gpt2}; put GPT-2's files there (they are at"
        " huggingface.co/openai-community/gpt2), or set reference.gpt2 to their folder"
      )
    return
  elsewhere = locate(c.workdir) if c.workdir else workdir
  if not latest_step(elsewhere / "reference") and ("reference" not in config.phases or c.workdir):
    raise ConfigError(
      f"no reference model in {elsewhere}; run the phase 'reference' first, or set"
      " reference.workdir to a workdir that has one"
    )
  if not c.workdir:
    return
  theirs = load_config(elsewhere, "reference").dataset
  for field in ("alphabet", "tokenizer", "length"):
    if theirs[field] != config.dataset[field]:
      raise ConfigError(
        f"the reference model in {elsewhere} has dataset.{field} {theirs[field]!r}, this run"
        f" {config.dataset[field]!r}; it cannot measure it"
      )


def record(config: ConfigDict, workdir: epath.Path, phase: str) -> None:
  """Notes the config under which `phase` runs."""
  path = workdir / phase / "config.json"
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(_relevant(config, phase), indent=1) + "\n")


def load_config(workdir: epath.Path, phase: str) -> ConfigDict:
  """The config under which `phase` ran. Raises `FileNotFoundError` where it has not."""
  recorded = _recorded(workdir, phase)
  if recorded is None or (phase != "evaluate" and not latest_step(workdir / phase)):
    raise FileNotFoundError(f"no finished checkpoint of the phase {phase!r} in {workdir}")
  return ConfigDict(_with_tuples(recorded))


def _with_tuples(value):
  """JSON's lists as the tuples that they were in the config."""
  if isinstance(value, dict):
    return {name: _with_tuples(inner) for name, inner in value.items()}
  return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


def _relevant(config: ConfigDict, phase: str) -> dict:
  names = [name for name in _SECTIONS[phase] if name in config]
  relevant = {name: config[name].to_dict() for name in names}
  return json.loads(json.dumps(relevant | {"seed": config.run.seed}))


def _recorded(workdir: epath.Path, phase: str) -> dict | None:
  path = workdir / phase / "config.json"
  return json.loads(path.read_text()) if path.exists() else None
