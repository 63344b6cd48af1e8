"""Folders of teachers as on the Hugging Face hub, read and written in a test."""

import functools
import json
import pathlib
import shutil

from safetensors.numpy import load_file, save_file

from dmmd_jax import parallel
from dmmd_jax.teachers import convert
from dmmd_jax.teachers.kinds import KINDS
from dmmd_jax.teachers.tensors import open_source

GOLDEN = pathlib.Path(__file__).parents[1] / "networks"
FOLDERS = {
  **{kind: GOLDEN / "golden_dit" / kind for kind in ("mdlm", "duo", "bd3lm", "sedd")},
  **{kind: GOLDEN / "golden_llama" / kind for kind in ("llada", "dream")},
}


@functools.cache
def loaded(kind, path=None, length=8):
  """The config and the parameters of a golden teacher, or of another file of its kind."""
  source = open_source(path or FOLDERS[kind])
  overrides = {"dataset.length": length, "preset": "smoke"}
  sizes = {"block": 4} if kind == "bd3lm" else {}
  config = convert.make_config(kind, sizes | KINDS[kind].sizes(source, kind), overrides)
  return config, convert.load(config, KINDS[kind], source, kind, parallel.make_mesh())


def tensors(folder):
  """All tensors of the safetensors of a folder."""
  found = {}
  for file in sorted(folder.glob("*.safetensors")):
    found |= load_file(file)
  return found


def copy(kind, folder, config=None, change=None):
  """A golden folder with other entries in its config.json, and tensors that `change` has changed.

  An entry None is taken out; `change` may also return other tensors.
  """
  shutil.copytree(FOLDERS[kind], folder)
  path = folder / "config.json"
  entries = json.loads(path.read_text()) | (config or {})
  path.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
  if change:
    (file,) = folder.glob("*.safetensors")
    values = load_file(file)
    save_file(change(values) or values, file)
  return folder
