"""`benchmarks.samplers` on data that are small, and that it measures what its tables show."""

import importlib
import json
import sys
import types

import numpy as np
import pytest

from benchmarks import samplers
from dmmd_jax import records
from dmmd_jax.metrics import suites
from dmmd_jax.phases import build


@pytest.fixture
def table(tmp_path, monkeypatch):
  """`table(*arguments)`: rows and cells of a run on a small hidden Markov model."""
  config = importlib.import_module("configs.hmm_dmmd").get_config()
  config.dataset.update({"length": 8, "num_categories": 4, "num_hidden": 2})
  dataset = build.make_dataset(config)
  process = build.make_process(config, dataset)
  exact = build.ExactTeacher(dataset.joint, process)
  model = samplers.Model(process, exact.log_mean, (), dataset)
  monkeypatch.setattr(samplers, "load", lambda args: model)

  def run(*arguments):
    monkeypatch.setattr(
      sys, "argv", ["samplers", "--num=40", "--seeds=2", f"--out={tmp_path}", *arguments]
    )
    samplers.main()
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    found = {(row["model"], row["metric"], row["nfe"]): row["value"] for row in rows}
    (path,) = tmp_path.glob("cells_*.json")
    return found, json.loads(path.read_text())

  return run


def test_a_table_of_samplers(table, monkeypatch, tmp_path):
  rows, cells = table("--samplers=ancestral;Ψ;entropy-bounded", "--nfe=2,4")
  for name in ("ancestral", "Ψ", "entropy-bounded"):
    for nfe in (2, 4):
      assert {m for n, m, steps in rows if (n, steps) == (name, nfe)} - {"setting"} == {
        *samplers.METRICS["hmm"], "nfe_spent"
      }  # fmt: skip
      assert 0 < rows[name, "nfe_spent", nfe] <= 1.1 * nfe

  def cell(name, *which):
    variant = samplers.VARIANTS[name]
    return cells.get(" ".join(map(str, (name, variant.sampler, variant.grid, *which))))

  runs = [cell("ancestral", None, 4, seed, "held_out")["nll"] for seed in range(2)]
  assert rows["ancestral", "nll", 4] == pytest.approx(np.mean(runs)) and runs[0] != runs[1]
  # Chosen by other samples than those that are shown, by the first metric.
  values = samplers.VARIANTS["Ψ"].values
  chosen = min(values, key=lambda value: cell("Ψ", value, 2, 2, "validation")["pair_tv"])
  assert rows["Ψ", "setting", 2] == chosen and cell("Ψ", chosen, 2, 0, "held_out")
  assert rows["entropy-bounded", "setting", 2] > rows["entropy-bounded", "setting", 4]
  # What is complete is not drawn again.
  monkeypatch.setattr(samplers.Bench, "draw", None)
  assert table("--samplers=ancestral;Ψ;entropy-bounded", "--nfe=2,4") == (rows, cells)
  # Of fewer samples, by other samplers, or of another model, it is.
  with pytest.raises(TypeError, match="NoneType"):
    table("--samplers=ancestral", "--nfe=2", "--num=30")
  with monkeypatch.context() as patch, pytest.raises(TypeError, match="NoneType"):
    patch.setattr(samplers, "_SOURCES", tmp_path)  # no source at all
    table("--samplers=ancestral", "--nfe=2")
  other = samplers.load(None)._replace(identity="retrained")
  monkeypatch.setattr(samplers, "load", lambda args: other)
  with pytest.raises(TypeError, match="NoneType"):
    table("--samplers=ancestral", "--nfe=2")


def test_a_student_of_low_rank_is_added_to_its_teacher(monkeypatch):
  config = importlib.import_module("configs.digits_dmmd_kernel").get_config()
  config.distill.lora_rank = 16
  source = records.Source(None, {"config": config.to_dict(), "digest": "5eed"})
  asked = []
  monkeypatch.setattr(records, "find_model", lambda _, kind: asked.append(kind) or source)
  monkeypatch.setattr(build, "load_ema", lambda *_: "changes alone")
  monkeypatch.setattr(build, "load_student", lambda *_: "the sum")
  args = types.SimpleNamespace(data="digits", model="student", workdir="w", reference=None)
  assert samplers.load(args).params == "the sum" and asked == ["student"]
  args.model = "teacher"
  assert samplers.load(args).params == "changes alone"


@pytest.mark.parametrize("data", samplers.METRICS)
def test_every_metric_of_a_table_is_measured(data):
  config = importlib.import_module(f"configs.{data}_dmmd").get_config()
  dataset = build.make_dataset(config)
  language_model = types.SimpleNamespace(
    gradient_moment=lambda *_: types.SimpleNamespace(value=1.0),
    nll=lambda tokens, size: np.ones(len(tokens)),
  )
  measures = suites.make_measures(dataset, language_model if dataset.tokenizer else None)
  found = measures.of_batch(dataset.held_out[:64], 0)
  assert {*samplers.METRICS[data]} <= found.keys() | {"entropy"}  # that of predictions
