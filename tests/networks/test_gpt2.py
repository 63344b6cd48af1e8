"""GPT-2 against what PyTorch says, kept in `golden_gpt2/` (made by `make_golden_gpt2.py`)."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dmmd_jax.metrics.gradient_moment import gradient_moment
from dmmd_jax.networks import gpt2
from dmmd_jax.phases import reference

FOLDER = pathlib.Path(__file__).parent / "golden_gpt2"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
TOKENS = np.array(GOLDEN["tokens"], np.int32)


def test_logits_are_those_of_transformers():
  module, params = gpt2.load(FOLDER)
  logits = module.apply({"params": params}, TOKENS[:2])
  np.testing.assert_allclose(logits, GOLDEN["logits"], atol=1e-4)


def test_gradient_moment_is_that_of_an_independent_computation_in_pytorch():
  model = reference.load_gpt2(str(FOLDER))
  samples, data = np.split(TOKENS, 2)
  estimate = gradient_moment(model.loss, model.params, samples, data, len(samples) // 2)
  np.testing.assert_allclose(estimate.value, GOLDEN["gradient_moment"], rtol=1e-3)
  assert estimate.stderr is None


def test_missing_or_foreign_weights_are_one_clear_line(tmp_path):
  with pytest.raises(gpt2.WeightsError, match=r"no model.safetensors in .*huggingface.co"):
    gpt2.load(tmp_path)
  shutil.copy(FOLDER / "model.safetensors", tmp_path)  # without config.json: sizes do not fit
  with pytest.raises(gpt2.WeightsError, match="does not hold a GPT-2"):
    gpt2.load(tmp_path)
  (tmp_path / "config.json").write_text('{"n_embd": 32, "n_layer": 2, "n_head": 2}')
  with pytest.raises(gpt2.WeightsError, match="other shapes than its config"):
    gpt2.load(tmp_path)
  fits = json.loads((FOLDER / "config.json").read_text())
  for changed, message in (
    ({"n_layer": fits["n_layer"] - 1}, "more layers than"),
    ({"n_head": 0}, "config.json has n_head 0; expected a whole number above 0"),
    ({"n_head": fits["n_embd"] - 1}, "config.json has n_embd .*, no multiple of"),
    ({"n_layer": 1e9}, "config.json has n_layer"),
    ({"vocab_size": True}, "config.json has vocab_size True"),
    ({"layer_norm_epsilon": "small"}, "config.json has layer_norm_epsilon small"),
  ):
    (tmp_path / "config.json").write_text(json.dumps(fits | changed))
    with pytest.raises(gpt2.WeightsError, match=message):
      gpt2.load(tmp_path)
  (tmp_path / "config.json").write_text(json.dumps(fits))
  tensors = load_file(FOLDER / "model.safetensors")
  name = next(iter(tensors))
  tensors[name] = np.full_like(tensors[name], np.nan)
  save_file(tensors, tmp_path / "model.safetensors")
  with pytest.raises(gpt2.WeightsError, match=f"has NaN or infinity in .*{name[-8:]}"):
    gpt2.load(tmp_path)
  (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1")
  with pytest.raises(gpt2.WeightsError, match="cannot read the weights"):
    gpt2.load(tmp_path)
