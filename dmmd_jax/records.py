"""What the result of a phase was made from, recorded beside it. Pure Python.

A phase folder holds `config.json`, what the phase depends on, from before its first step, and
`record.json`, the same with the result, from after its last. A phase is complete exactly if its
record equals what it would be now, but for where its data lie.
"""

import contextlib
import json
import pathlib
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from dmmd_jax import nested
from dmmd_jax.config_file import ConfigError
from dmmd_jax.fields import upgraded
from dmmd_jax.integrity import find_damage, read_json, sha256, write_json
from dmmd_jax.sources import Source, Sources, gpt2_files, require_same, require_taught_by
from dmmd_jax.versions import changed_since, made_by
from dmmd_jax.workdir import latest_step, locate

# The fields of a config that each phase is given to see, besides `run`.
_OWN = {
  "teacher": ("dataset", "process", "network", "teacher"),
  "reference": ("dataset", "network", "reference"),
  "distill": ("dataset", "process", "network", "teacher.loss", "distill"),
  "evaluate": (
    "dataset", "process", "network", "teacher.loss", "distill.teacher", "distill.noise",
    "distill.noise_dim", "distill.noise_scale", "evaluate",
  ),
}  # fmt: skip

# Where a thing lies is not what it is: its own record or digest says that.
PLACES = {"distill.teacher_workdir", "reference.workdir", "reference.gpt2"}

_ELSEWHERE = {"teacher": "distill.teacher_workdir", "reference": "reference.workdir"}
_PHASE_OF = {"teacher": "teacher", "student": "distill", "reference": "reference"}


def own_config(config: ConfigDict, phase: str) -> ConfigDict:
  """What `phase` may see of a config: the fields that its record holds, and `run`.

  To read any other is an error, so that no result depends on what is not recorded.
  """
  return ConfigDict(nested.select(config, _OWN[phase], PLACES) | {"run": config.run.to_dict()})


def depends(config: ConfigDict, phase: str, sources: Sources) -> dict[str, Any]:
  """All that the result of `phase` depends on: fields of the config, the seed, what it reads."""
  own = nested.select(config, _OWN[phase], PLACES) | {"seed": config.run.seed}
  inputs = {name: source.identity for name, source in sources.items()}
  return json.loads(json.dumps({"config": own, "inputs": inputs}))


def find_model(workdir: epath.Path, name: str, unfinished: bool = False) -> Source:
  """The `teacher`, `student` or `reference` that its phase left in a workdir.

  Raises `ConfigError` where there is none. Raises it where its phase has not finished, or its last
  checkpoint is damaged, unless `unfinished` says that any checkpoint will do.
  """
  phase = _PHASE_OF[name]
  folder = workdir / phase
  record = _read(folder / "record.json")
  damage = record and _find_damage(folder, record["result"])
  if record and not damage:
    of_model = {key: record["result"][key] for key in ("step", "digest")}
    return Source(folder, record["depends"] | of_model | {"finished": True})
  if damage and not unfinished:
    raise ConfigError(
      f"the {name} in {folder} is damaged ({damage}); run the phase {phase!r} there again, which"
      " goes on from the last undamaged checkpoint"
    )
  step, begun = latest_step(folder), read_begun(folder)
  if not step or not begun:
    field = _ELSEWHERE.get(name)
    elsewhere = f", or name the workdir that has one ({field} of a config)" if field else ""
    raise ConfigError(
      f"no trained {name} in {folder}; run the phase {phase!r} there first{elsewhere}"
    )
  if not unfinished:
    raise ConfigError(
      f"the {name} in {folder} is not finished, its last checkpoint is of step {step}; run the"
      f" phase {phase!r} to its end, or give --unfinished to use it as it is"
    )
  return Source(folder, begun | {"step": step, "digest": None, "finished": False})


def current_inputs(workdir: epath.Path, begun: dict[str, Any]) -> dict[str, Any]:
  """The inputs of an evaluation that was `begun` in a workdir, with the models that are there now.

  What it read from elsewhere, or does not exist any more, stays as it was.
  """
  inputs = dict(begun["inputs"])
  for name, phase in _PHASE_OF.items():
    is_read = name == "student" or "step" in inputs.get(name, {})
    if is_read and has_begun(workdir / phase):
      with contextlib.suppress(ConfigError):
        inputs[name] = find_model(workdir, name, unfinished=True).identity
  return inputs


def find_sources(
  config: ConfigDict,
  workdir: epath.Path,
  phase: str,
  unfinished: bool = False,
  pending: tuple[str, ...] = (),
) -> Sources:
  """All that `phase` reads, by name; what the `pending` phases of this run will make is left out.

  Raises `ConfigError` for what is not there or not finished, and for a model that is not what the
  config says.
  """
  found = {}

  def find_in(elsewhere: str, name: str) -> None:
    if elsewhere or _PHASE_OF[name] not in pending:
      found[name] = find_model(locate(elsewhere) if elsewhere else workdir, name, unfinished)
      require_same(config, name, found[name])

  if phase == "distill" or (phase == "evaluate" and config.distill.teacher != "exact"):
    find_in(config.distill.teacher_workdir, "teacher")
  if phase == "evaluate":
    if has_begun(workdir / "distill"):
      find_in("", "student")
    if {"teacher", "student"} <= found.keys():
      require_taught_by(found["teacher"], found["student"])
    if "reference" in config and config.reference.gpt2:
      found["reference"] = gpt2_files(config.reference.gpt2)
    elif "reference" in config:
      find_in(config.reference.workdir, "reference")
    weights = epath.Path(config.evaluate.get("inception", "")).expanduser()
    if pathlib.Path(weights).is_file():
      found["inception"] = Source(weights, {"sha256": sha256(weights)})
  return found


def check(config: ConfigDict, workdir: epath.Path, unfinished: bool = False) -> None:
  """Raises `ConfigError` where a phase to run lacks what it needs, or was begun differently."""
  pending = ()
  for phase in config.phases:
    sources = find_sources(config, workdir, phase, unfinished, pending)
    now = depends(config, phase, sources)
    require_unchanged(workdir / phase, now)
    if not is_complete(workdir / phase, now):
      pending += (phase,)


def require_unchanged(folder: epath.Path, now: dict[str, Any]) -> None:
  """Raises `ConfigError` where the phase in `folder` was begun from something else than `now`.

  What it will read but does not exist yet is no difference, nor is where data lie, which have a
  fingerprint; an evaluation is simply made again.
  """
  if folder.exists() and not folder.is_dir():
    raise ConfigError(f"{folder} is a file; expected the folder of a phase: move it away")
  begun = read_begun(folder)
  if begun is None or folder.name == "evaluate":
    return
  begun, now = map(nested.without_places_of_data, (begun, now))
  inputs = {name: begun["inputs"].get(name) for name in now["inputs"]}
  of_config = nested.differences(begun["config"], now["config"])
  changed = of_config + nested.differences(inputs, now["inputs"])
  if changed:
    other = "another config" if of_config else "other data or models"
    raise ConfigError(
      f"{folder} was begun with {other} ({'; '.join(changed[:3])}); choose another --workdir, or"
      " remove that folder to start again"
    )


def is_complete(folder: epath.Path, now: dict[str, Any]) -> bool:
  """Whether the phase in `folder` has ended, and its result was made from what is there `now`.

  Data are compared where they are among the inputs: before they are loaded they cannot be.
  """
  record = _read(folder / "record.json")
  if not record or _find_damage(folder, record["result"]):
    return False
  made_from, now = map(nested.without_places_of_data, (record["depends"], now))
  if "data" not in now["inputs"]:
    made_from["inputs"].pop("data", None)
  return made_from == now


def code_since(folder: epath.Path) -> str:
  """That the code may have changed since a phase ended, in words; "" where it has not.

  A result is not made again for that: most commits change none.
  """
  record = _read(folder / "record.json") or {}
  return changed_since(record.get("made_by", {}).get("commit"))


def find_damaged_file(folder: epath.Path) -> str:
  """What of the last checkpoint of a finished phase is damaged, in words; "" where nothing is."""
  record = _read(folder / "record.json")
  is_last = record and record["result"].get("step") == latest_step(folder)
  return _find_damage(folder, record["result"]) if is_last else ""


def begin(folder: epath.Path, now: dict[str, Any]) -> None:
  """Notes what a phase depends on; until it `finish`es it is not complete."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "record.json").unlink(missing_ok=True)
  write_json(folder / "config.json", now)


def finish(folder: epath.Path, now: dict[str, Any], result: dict[str, Any], device: str) -> None:
  """Records the result of a phase: `step`, `digest` of a model, `files` as noted by `integrity`."""
  record = {"depends": now, "result": result, "made_by": made_by(device)}
  write_json(folder / "record.json", record)


def read_begun(folder: epath.Path) -> dict[str, Any] | None:
  """What a phase was begun with, None where it was not; raises `ConfigError` for damage."""
  path = folder / "config.json"
  if not path.exists():
    return None
  begun = _read(path)
  if begun is None:
    raise ConfigError(
      f"{path} is damaged, edited, or of another version of dmmd_jax; put it back as it was, or"
      f" remove {folder} to start that phase again"
    )
  return begun


def _read(path: epath.Path) -> dict[str, Any] | None:
  return upgraded(read_json(path))


def has_begun(folder: epath.Path) -> bool:
  """Whether a phase has left anything in its folder."""
  return any((folder / name).exists() for name in ("config.json", "record.json", "checkpoints"))


def _find_damage(folder: epath.Path, result: dict[str, Any]) -> str:
  """What of a result is not as its phase has left it, in words; "" where all is."""
  step = latest_step(folder) if "step" in result else None
  if step != result.get("step"):
    found = f"of step {step}" if step else "missing"
    return f"its last checkpoint is {found}, expected that of step {result['step']}"
  # Records of before there were `files` know the contents of results.json alone.
  old = {"results.json": result["sha256"]} if "sha256" in result else {}
  return find_damage(folder, result.get("files", old))
