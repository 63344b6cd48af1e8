"""Models in the format of others: many files, a student's noise, and what a model card says."""

import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dmmd_jax.records import Source
from dmmd_jax.teachers import convert, export
from dmmd_jax.teachers.kinds import KINDS, recognise
from dmmd_jax.teachers.tensors import open_source
from tests.teachers.made import loaded, tensors


def source_of(config, **inputs):
  identity = {"config": config.to_dict(), "inputs": inputs, "step": 7, "digest": "d19e57"}
  return Source(None, identity | {"finished": True})


@pytest.mark.parametrize("kind", ["mdlm", "duo", "bd3lm", "sedd", "llada", "dream"])
def test_a_network_of_our_own_is_written_as_its_kind(kind, tmp_path):
  """Told by its process and network; `config.json` says enough to read it again."""
  config, params = loaded(kind)
  source = source_of(config)
  assert export.kind_of(source) == kind
  export.write(tmp_path, source, params, None)
  again = open_source(tmp_path)
  assert recognise(tmp_path, again) == kind
  sizes = KINDS[kind].sizes(again, kind)
  for name, value in sizes.items():
    assert config.network[name] == value
  if kind in ("duo", "llada"):  # a network of each kind
    back = convert.load(config, KINDS[kind], again, kind, _one_device())
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_large_models_are_split_and_listed(tmp_path, monkeypatch):
  monkeypatch.setattr(export, "_FILE_BYTES", 20_000)
  config, params = loaded("mdlm")
  size = export.write(tmp_path, source_of(config), params, None)
  files = sorted(file.name for file in tmp_path.glob("*.safetensors"))
  assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
  assert all((tmp_path / file).stat().st_size < 25_000 for file in files)
  index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
  assert index["metadata"]["total_size"] == size
  assert {*index["weight_map"].values()} == {*files}
  assert open_source(tmp_path).tensors.keys() == index["weight_map"].keys()


def test_a_student_has_its_noise_besides(tmp_path):
  config, params = loaded("mdlm")
  config = ConfigDict(config.to_dict())
  config.distill.update({"student_nfe": 8, "method": "dmmd", "noise": "gaussian", "noise_dim": 3})
  kernel = np.arange(48, dtype=np.float32).reshape(3, 16)
  params = params | {"noise": {"kernel": kernel, "bias": np.ones(16, np.float32)}}
  origin = {"kind": "mdlm", "files": {"model.safetensors": "5ha"}}
  teacher = source_of(config, origin=origin).identity
  export.write(tmp_path, source_of(config, teacher=teacher), params, None)
  found = tensors(tmp_path)
  np.testing.assert_array_equal(found["backbone.noise.weight"], kernel.T)
  np.testing.assert_array_equal(found["backbone.noise.bias"], 1.0)
  card = (tmp_path / "README.md").read_text()
  for said in ("student of 8 steps", "`dmmd` in 7 updates", "kind mdlm", "`5ha`", "`d19e57`"):
    assert said in card


def test_a_network_of_no_kind_is_refused():
  config, _ = loaded("mdlm")
  config = ConfigDict(config.to_dict())
  config.network.name = "transformer"
  with pytest.raises(ValueError, match="'transformer', which is our own; expected one of others"):
    export.kind_of(source_of(config))


def _one_device():
  return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), ("data", "fsdp", "tensor"))
