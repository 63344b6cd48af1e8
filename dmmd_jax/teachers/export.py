"""Writes a teacher or a student in the names and the format of those who made its network."""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 by it
import numpy as np
from safetensors.numpy import save_file

from dmmd_jax.records import Source
from dmmd_jax.teachers import names
from dmmd_jax.teachers.convert import BUFFERS, ORIGIN, with_prefix
from dmmd_jax.teachers.kinds import KINDS

# Bytes of a file, of which a large model has several.
_FILE_BYTES = 5 * 10**9
_LICENCE_NOTE = "The licence is that of the teacher."


def kind_of(source: Source) -> str:
  """The kind that a model was converted from, or its teacher; else by its process and network."""
  identity = source.identity
  while "origin" not in identity["inputs"] and "teacher" in identity["inputs"]:
    identity = identity["inputs"]["teacher"]
  if "origin" in identity["inputs"]:
    return identity["inputs"]["origin"]["kind"]
  config, network = source.config, source.config.network
  if network.name == "llama":
    return "dream" if network.shifted else "llada"
  if network.name != "dit":
    raise ValueError(
      f"its network is {network.name!r}, which is our own; expected one of others, such as 'dit'"
    )
  if config.process.name == "uniform":
    return "duo"
  return "bd3lm" if network.block else "sedd" if network.time == "sigma" else "mdlm"


def folder_of_teacher(source: Source) -> pathlib.Path | None:
  """Where the converted teacher lies that a model is, or was distilled from beside it, if any."""
  folder = pathlib.Path(source.path).parent / "teacher"
  return folder if (folder / ORIGIN).is_file() else None


def tensors(source: Source, params: Any, teacher: pathlib.Path | None) -> Iterator[tuple]:
  """Names and arrays of theirs, one at a time; `teacher` is the folder of the converted one.

  A student has its map of noise besides, in keys `noise.weight` and `noise.bias`.
  """
  kind, network = KINDS[kind_of(source)], source.config.network
  entries = [with_prefix(entry, kind.prefix) for entry in kind.entries(network)]
  if names.has(params, "noise"):
    noise = (("noise/kernel", "noise.weight", "transposed"), ("noise/bias", "noise.bias", "plain"))
    entries += [names.Entry(path, kind.prefix + name, form) for path, name, form in noise]
  dtypes = _read_origin(teacher)["dtypes"]
  for name, x in names.to_theirs(entries, params, network.heads, network.vocab_size):
    yield name, x.astype(dtypes.get(name, "float32"))
  for name, x in _buffers(source, kind.prefix, teacher).items():
    yield name, x.astype(dtypes.get(name, "float32"))


def write(out: pathlib.Path, source: Source, params: Any, teacher: pathlib.Path | None) -> int:
  """Writes safetensors, `config.json` and a model card into a folder; returns the bytes."""
  out.mkdir(parents=True, exist_ok=True)
  files, part, size, total = [], {}, 0, 0
  for name, x in tensors(source, params, teacher):
    if part and size + x.nbytes > _FILE_BYTES:
      files.append(_write_part(out, part, len(files)))
      part, size = {}, 0
    part[name] = x
    size, total = size + x.nbytes, total + x.nbytes
  files.append(_write_part(out, part, len(files)))
  _name_files(out, files, total)
  (out / "config.json").write_text(json.dumps(_hub_config(source, teacher), indent=1) + "\n")
  (out / "README.md").write_text(model_card(source))
  return total


def _write_part(out: pathlib.Path, part: dict[str, np.ndarray], number: int) -> list[str]:
  save_file(part, out / f"part-{number}", metadata={"format": "pt"})
  return list(part)


def _name_files(out: pathlib.Path, files: list[list[str]], total: int) -> None:
  if len(files) == 1:
    (out / "part-0").rename(out / "model.safetensors")
    return
  weight_map = {}
  for i, tensor_names in enumerate(files):
    name = f"model-{i + 1:05}-of-{len(files):05}.safetensors"
    (out / f"part-{i}").rename(out / name)
    weight_map |= dict.fromkeys(tensor_names, name)
  index = {"metadata": {"total_size": total}, "weight_map": weight_map}
  (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def _read_origin(teacher: pathlib.Path | None) -> dict[str, Any]:
  if teacher is None or not (teacher / ORIGIN).is_file():
    return {"config": {}, "dtypes": {}}
  return json.loads((teacher / ORIGIN).read_text())


def _buffers(source: Source, prefix: str, teacher: pathlib.Path | None) -> dict[str, np.ndarray]:
  """Those of the converted teacher; of a teacher of our own what the network computes."""
  if teacher is not None and (teacher / BUFFERS).is_file():
    with np.load(teacher / BUFFERS) as buffers:
      return dict(buffers)
  network = source.config.network
  features = network.width // network.heads
  frequencies = 1.0 / 10_000 ** (np.arange(0, features, 2, np.float32) / np.float32(features))
  return {f"{prefix}rotary_emb.inv_freq": frequencies}


def _hub_config(source: Source, teacher: pathlib.Path | None) -> dict[str, Any]:
  found = _read_origin(teacher)["config"]
  if found:
    return found
  kind = kind_of(source)
  return {"model_type": kind} | KINDS[kind].hub_config(source.config)


def model_card(source: Source) -> str:
  """What made a model, from its record."""
  identity, config = source.identity, source.config
  is_student = "teacher" in identity["inputs"]
  inputs = identity["inputs"]
  teacher = inputs["teacher"] if is_student else identity
  origin = teacher["inputs"].get("origin", {})
  lines = ["---", "library_name: dmmd_jax", "---", ""]
  if is_student:
    d = config.distill
    lines += [
      f"A student of {d.student_nfe} steps, distilled by `{d.method}` in {identity['step']} updates"
      f" of batch {d.batch_size} with dmmd_jax. Its noise input ({d.noise}, {d.noise_dim} per"
      f" position, standard deviation {d.noise_scale}) is added to the embeddings of tokens by the"
      " keys `noise.weight` and `noise.bias`.",
      "",
    ]
  if origin:
    lines += [
      f"The teacher is of kind {origin['kind']}, converted from files with these SHA-256:",
      "",
    ]
    lines += [f"- `{name}`: `{digest}`" for name, digest in origin["files"].items()] + [""]
  else:
    lines += [f"The teacher was trained for {teacher['step']} updates with dmmd_jax.", ""]
  lines += [f"Digest of the parameters: `{identity['digest']}`. {_LICENCE_NOTE}", ""]
  return "\n".join(lines)
