"""What a phase reads, what it is, and what does not fit together. Pure Python."""

import dataclasses
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from dmmd_jax import nested
from dmmd_jax.config_file import ConfigError
from dmmd_jax.integrity import sha256

# What says which network parameters belong to and what it predicts, and what of it does not.
_MODEL = ("dataset", "process", "network", "teacher.loss")
_DEFINES = {
  "teacher": _MODEL,
  "student": (*_MODEL, "distill.noise", "distill.noise_dim", "distill.noise_scale"),
  "reference": ("dataset.alphabet", "dataset.tokenizer", "dataset.length"),
}
_FREE = {
  "dataset.path", "dataset.flip", "dataset.unknown", "network.remat", "network.dropout",
  "network.dtype",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Source:
  """Something that a phase reads: the `path` of a phase folder or of a file, and what it is.

  The `identity` of a model is its `config`, its own `inputs`, the `step`, whether its phase has
  `finished`, and the `digest` of its parameters; of files the `sha256`; of data a `fingerprint`.
  """

  path: epath.Path | None
  identity: dict[str, Any]

  @property
  def config(self) -> ConfigDict:
    """The config under which a model was made."""
    return ConfigDict(nested.with_tuples(self.identity["config"]))

  @property
  def step(self) -> int:
    return self.identity["step"]

  @property
  def digest(self) -> str | None:
    return self.identity["digest"]


Sources = dict[str, Source]


def require_same(config: ConfigDict, name: str, source: Source) -> None:
  """A model's own record decides what it is. Raises `ConfigError` where a config says otherwise."""
  # All but the first, `dataset`, of a teacher that was converted: it can be given any text.
  defines = _DEFINES[name]["origin" in source.identity["inputs"] :]
  theirs, ours = (nested.select(c, defines, _FREE) for c in (source.config, config))
  changed = nested.differences(*(json.loads(json.dumps(c)) for c in (theirs, ours)))
  if changed:
    raise ConfigError(
      f"the {name} in {source.path} is not what this config says ({'; '.join(changed)}, its own"
      " value first); set these fields as it has them, or train another"
    )


def require_taught_by(teacher: Source, student: Source) -> None:
  """Raises `ConfigError` for a student of another teacher than that it would be measured beside."""
  taught = student.identity["inputs"].get("teacher", {}).get("digest")
  if taught and teacher.digest and taught != teacher.digest:
    raise ConfigError(
      f"the student in {student.path} was distilled from another teacher than that in"
      f" {teacher.path}; set distill.teacher_workdir to the workdir of its own, or distil again in"
      " another --workdir"
    )


def gpt2_files(folder: str) -> Source:
  """The files of GPT-2 in a folder. Raises `ConfigError` where they are not there."""
  path = epath.Path(folder).expanduser()
  files = [path / name for name in ("config.json", "model.safetensors")]
  if not all(file.exists() for file in files):
    raise ConfigError(
      f"no config.json and model.safetensors in {folder}; put GPT-2's files there (they are at"
      " huggingface.co/openai-community/gpt2), or set reference.gpt2 to their folder"
    )
  return Source(path, {"sha256": {file.name: sha256(file) for file in files}})
