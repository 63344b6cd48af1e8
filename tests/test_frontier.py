"""`benchmarks.frontier`: which model, at which temperature, and its errors."""

import argparse
import sys
import types

import jax
import pytest

from benchmarks import frontier
from dmmd_jax import drawing, parallel, records
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.diffusion.samplers import Samples
from dmmd_jax.metrics.suites import Measures

VALUES = {"a": (10.0, 0.1), "b": (14.0, 0.1), "t": (20.0, 3.0)}


def test_a_teacher_is_one_cell_and_seeds_of_a_student_are_another(monkeypatch):
  asked = []
  find = lambda workdir, kind: records.Source(workdir / kind, {"config": {}})
  monkeypatch.setattr(records, "find_model", find)
  monkeypatch.setattr(frontier.drawing, "load", lambda source, *_: source.path)
  monkeypatch.setattr(frontier, "make_text_measures", lambda *_: None)

  def measure(path, measures, nfe, temperature, num_batches, seed):
    asked.append((str(path), nfe, temperature, num_batches, seed))
    value, error = VALUES[path.parts[0]]
    return dict.fromkeys(frontier.METRICS, (value * temperature, error))

  monkeypatch.setattr(frontier, "measure", measure)
  models = ["teacher=t", "ours=a", "ours=b"]
  args = argparse.Namespace(models=models, reference=None, nfe=4, batches=2, split="validation")
  rows = [r for r in frontier.frontier(args, (0.5, 1.0)) if r["metric"] == "perplexity"]
  assert [(r["model"], r["nfe"], r["value"]) for r in rows] == [
    ("teacher", 0.5, 10.0), ("teacher", 1.0, 20.0), ("ours", 0.5, 6.0), ("ours", 1.0, 12.0)
  ]  # fmt: skip
  # Of one run its own error, of two the larger of theirs and the one between them.
  assert [r["stderr"] for r in rows] == pytest.approx([3.0, 3.0, 1.0, 2.0])
  assert asked[0] == ("t/teacher", 4, 0.5, 2, 0)
  assert asked[2:4] == [("a/student", 4, 0.5, 2, 0), ("b/student", 4, 0.5, 2, 1)]


@pytest.mark.parametrize("word", ["runs/text", "=runs/text", "ours="])
def test_a_model_without_name_or_workdir_is_refused(word, monkeypatch, capsys):
  monkeypatch.setattr(sys, "argv", ["frontier", "--reference=runs/text", word])
  with pytest.raises(SystemExit):
    frontier.main()
  assert "no NAME=WORKDIR" in capsys.readouterr().err


def test_a_model_is_sampled_at_the_temperature_in_the_steps_of_its_method():
  """Over as many batches as are asked for, each from a key of its own."""

  def sample(predict, process, key, shape, steps, temperature, top_p, with_path):
    tokens = jax.random.randint(key, shape, 0, 9)
    return Samples(tokens, 100 * temperature + 10 * top_p + steps)

  process = processes.Masked(9, schedules.Linear())
  denoiser = types.SimpleNamespace(
    num_blocks=1, num_classes=0, process=process, evaluations=lambda steps: steps,
    given=lambda batch: types.SimpleNamespace(log_mean=None),
  )  # fmt: skip
  mesh, dataset = parallel.make_mesh(), types.SimpleNamespace(shape=(5,))
  model = drawing.Model(denoiser, (), dataset, mesh, sample, lambda nfe: 2 * nfe)
  batches = []

  def of_batch(tokens, batch):
    batches.append(tokens)
    return {"batch": float(batch)}

  found = frontier.measure(model, Measures(of_batch), 3, 0.5, 0.75, num_batches=2)
  assert found == {"entropy": (63.5, 0.0), "batch": (0.5, 0.5)}
  assert [x.shape for x in batches] == [(256, 5)] * 2 and (batches[0] != batches[1]).any()
