"""The command `python -m dmmd_jax.metrics`, with a reference model of plain frequencies."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.metrics import __main__ as command
from dmmd_jax.metrics import likelihood
from dmmd_jax.metrics.gradient_moment import gradient_moment
from dmmd_jax.phases.reference import LanguageModel

MODEL = LanguageModel(
  token_nll=lambda params, x: -jax.nn.log_softmax(params)[x],
  params=jnp.array([0.1, 0.5, 0.0, -0.3]),
  num_categories=4,
  length=8,
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
  def load(path, samples, data):
    assert path == "model"
    for name, tokens in (("samples", samples), ("data", data)):
      if tokens is not None:
        command._check_tokens(name, tokens, MODEL.num_categories, MODEL.length)
    return MODEL

  monkeypatch.setattr(command, "load_reference", load)
  rng = np.random.default_rng(0)
  arrays = {
    "samples": rng.integers(4, size=(150, 8)),
    "data": rng.integers(3, size=(260, 8)).astype(np.uint16),
    "pairs": rng.integers(4, size=(150, 2)),
    "short": rng.integers(4, size=(150, 7)),
    "single": rng.integers(4, size=(150, 1)),
    "long": rng.integers(4, size=(150, 9)),
    "above": np.full((150, 8), 4),
    "below": np.full((150, 8), -1),
    "floats": rng.normal(size=(150, 8)),
    "flat": np.arange(8),
    "none": np.zeros((0, 8), int),
  }
  for name, array in arrays.items():
    np.save(tmp_path / f"{name}.npy", array)
  return tmp_path, arrays


def run(folder, capsys, samples, *args):
  command.main([f"{folder}/{samples}.npy", "--reference=model", *args])
  return capsys.readouterr().out


def test_json_is_what_the_functions_give(folder, capsys):
  path, arrays = folder
  result = json.loads(run(path, capsys, "samples", f"--data={path}/data.npy", "--json"))
  samples = arrays["samples"].astype(np.int32)
  assert result["num_samples"] == 150
  metrics = result["metrics"]
  assert list(metrics) == [
    "gradient_moment", "perplexity", "unigram_entropy",
    "distinct_2", "repeated_2", "distinct_4", "repeated_4",
  ]  # fmt: skip
  # Of 64 a minibatch, unless another is asked for.
  moment = gradient_moment(MODEL.loss, MODEL.params, samples, arrays["data"].astype(np.int32), 64)
  assert metrics["gradient_moment"] == {"value": pytest.approx(moment.value), "stderr": None}
  perplexity = likelihood.generative_perplexity(MODEL.nll(samples, 150))
  assert metrics["perplexity"]["value"] == pytest.approx(perplexity.value, rel=1e-5)
  assert metrics["perplexity"]["stderr"] == pytest.approx(perplexity.stderr, rel=1e-4)
  assert metrics["unigram_entropy"]["value"] == likelihood.unigram_entropy(samples).value
  for n in (2, 4):
    assert metrics[f"distinct_{n}"]["value"] == likelihood.distinct_ngrams(samples, n)
    assert metrics[f"repeated_{n}"]["value"] == likelihood.repeated_ngrams(samples, n)
    assert metrics[f"distinct_{n}"]["stderr"] is metrics[f"repeated_{n}"]["stderr"] is None


def test_a_table_without_data_has_the_uncentred_moment(folder, capsys):
  path, arrays = folder
  lines = run(path, capsys, "pairs", "--batch_size=16").splitlines()
  rows = {line.split()[0]: line.split()[1:] for line in lines}
  assert rows.keys() == {
    "metric", "uncentred_gradient_moment", "perplexity", "unigram_entropy",
    "distinct_2", "repeated_2", "150",
  }  # fmt: skip
  tokens = arrays["pairs"].astype(np.int32)
  moment = gradient_moment(MODEL.loss, MODEL.params, tokens, None, 16)
  value, stderr = map(float, rows["uncentred_gradient_moment"])
  assert value == pytest.approx(moment.value, rel=1e-3)
  assert stderr == pytest.approx(moment.stderr, rel=0.06)
  assert len(rows["distinct_2"]) == 1 and lines[-1] == "150 samples of 2 tokens"
  assert len({len(line) for line in lines[1:4]}) == 1  # columns


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["samples", "--batch_size=0"], "expected a whole number from 1"),
    (["samples", "--data=short"], "samples have 8 tokens, data 7"),
    (["long"], "samples have 9 tokens; the reference model takes 8"),
    (["above"], "samples have tokens from 4 to 4; the reference model knows 0 to 3"),
    (["below"], "samples have tokens from -1 to -1"),
    (["samples", "--data=above"], "data have tokens from 4 to 4"),
    (["single"], r"has shape (150, 1) of int64; expected integer tokens [n, D], D >= 2"),
    (["floats"], "of float64; expected integer tokens"),
    (["flat"], "has shape (8,)"),
    (["none"], "has shape (0, 8)"),
    (["samples", "--batch_size=76"], "make no pair of minibatches of 76"),
    (["absent"], "absent.npy"),
  ],
)
def test_what_cannot_be_measured_is_one_line(folder, capsys, args, message):
  path, _ = folder
  args = [arg.replace("--data=", f"--data={path}/") for arg in args]
  args = [f"{arg}.npy" if "--data" in arg else arg for arg in args]
  with pytest.raises(SystemExit) as stopped:
    command.main([f"{path}/{args[0]}.npy", "--reference=model", *args[1:]])
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error


def test_a_minibatch_of_one_will_do(folder, capsys):
  path, _ = folder
  assert "gradient_moment" in run(path, capsys, "samples", "--batch_size=1")


def test_a_folder_with_gpt2_is_a_reference_and_an_empty_one_is_not(tmp_path):
  model = command.load_reference("tests/networks/golden_gpt2", np.zeros((1, 2), int), None)
  assert model.sample is None and model.num_categories >= 40
  with pytest.raises(ValueError, match="no trained reference in"):
    command.load_reference(str(tmp_path), np.zeros((1, 2), int), None)
