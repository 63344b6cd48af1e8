"""Comparisons of students over seeds."""

import argparse
import json

import numpy as np
import pytest

from benchmarks import students


def run(commit, *student):
  teacher = (5.0, 0.5), (6.0, 0.0)
  cells = {
    (model, "m", steps): (*cell, 2 * steps)
    for model, values in (("student", student), ("teacher", teacher))
    for steps, cell in zip((1, 2), values, strict=True)
  }
  return students.Measured(cells, commit)


RUNS = [run("aaaaaaa", (1.0, 0.3), (1.0, 0.1)), run("bbbbbbb+", (1.0, 0.4), (3.0, 0.1))]


def test_errors_over_seeds_are_never_below_those_of_a_cell():
  found = students.statistics({"method": RUNS, "other": RUNS[:1]}, "m", (1, 2))
  # Seeds agree by chance: the root mean square of 0.3 and 0.4. They differ: 2/sqrt(2)/sqrt(2).
  np.testing.assert_allclose(found["method"], [[1.0, np.sqrt(0.125), 2], [2.0, 1.0, 4]])
  np.testing.assert_allclose(found["other"], [[1.0, 0.3, 2], [1.0, 0.1, 4]])
  np.testing.assert_allclose(found["teacher"], [[5.0, 0.5, 2], [6.0, 0.0, 4]])


def test_a_metric_that_older_runs_do_not_have_leaves_their_rows_out():
  cells = {
    (model, "new", steps): (value, 0.1, 2 * steps)
    for model, value in (("student", 4.0), ("teacher", 7.0))
    for steps in (1, 2)
  }
  newer = students.Measured(RUNS[0].cells | cells, "ccccccc")
  runs = {"older": RUNS, "newer": [newer], "both": [newer, RUNS[0]]}
  found = students.statistics(runs, "new", (1, 2))
  assert list(found) == ["teacher", "newer"] and found["teacher"][0, 0] == 7.0
  assert not students.statistics(runs, "newest", (1, 2))
  assert not students.statistics(runs, "m", (3,))  # nor what was not asked for
  args = argparse.Namespace(split="validation", teacher=None)
  rows = students.summary(runs, ("m", "new"), (1, 2), args)["rows"]
  assert [row["model"] for row in rows if row["metric"] == "new"] == [
    "teacher",
    "teacher",
    "newer",
    "newer",
  ]
  # A cell that one seed lacks is no older metric.
  del newer.cells["student", "m", 2]
  with pytest.raises(KeyError):
    students.statistics({"method": [*RUNS, newer]}, "m", (1, 2))


def test_a_summary_says_what_its_errors_are():
  args = argparse.Namespace(split="validation", teacher=None)
  found = students.summary({"method": RUNS, "other": RUNS[:1]}, ("m",), (1, 2), args)
  made = {"model": "method", "metric": "m", "nfe": 4, "value": 2.0, "stderr": 1.0}
  made["commit"] = "aaaaaaa, bbbbbbb+"  # of the runs, whatever this one is
  assert found["rows"][3] == made and len(found["rows"]) == 6
  assert found["rows"][-1]["commit"] == "aaaaaaa"
  assert found["caption"].startswith("2 seeds of one teacher, against the validation split")
  assert "fewer than three" in found["caption"]
  args = argparse.Namespace(split="held_out", teacher=["a", "b"])
  three = students.summary({"method": [*RUNS, RUNS[0]]}, ("m",), (1, 2), args)
  assert three["caption"].startswith("3 seeds of 2 teachers, against the test split")
  assert "fewer" not in three["caption"]


def test_seeds_take_teachers_by_turns(monkeypatch, tmp_path):
  calls = []
  monkeypatch.setattr(students, "run", lambda *args: calls.append(args))
  monkeypatch.setattr(students, "read", lambda workdir: workdir)
  args = argparse.Namespace(split="validation", teacher=["a", "b"], seeds=3, out=tmp_path)
  overrides = ["--config.reference.workdir=TEACHER", "--x=1"]
  variants = {"ours": ("folder", "config.py", overrides), "other": ("b", "config.py", [])}
  found = students.compare(variants, (1, 2), args)
  assert [call[1] for call in calls] == [0, 0, 1, 1, 2, 2]
  assert found["ours"] == [tmp_path / "folder" / str(seed) for seed in range(3)]
  assert [call[2] for call in calls] == ["a", "a", "b", "b", "a", "a"]
  nfe = "--config.evaluate.teacher_nfe="
  assert calls[2][-1] == [f"{nfe}(1, 2)", "--config.reference.workdir=b", "--x=1"]
  assert calls[3][-1] == [f"{nfe}(1,)"]  # of the same teacher
  calls.clear()
  students.compare(variants, (1, 2), args, seeds=[7])
  assert [call[1:3] for call in calls] == [(7, "a")] * 2


def test_comparisons_read_steps_and_errors(tmp_path):
  row = {"model": "student", "steps": 2, "nfe": 4, "metric": "fid", "value": 3.0, "stderr": None}
  (tmp_path / "evaluate").mkdir()
  (tmp_path / "evaluate" / "results.json").write_text(
    json.dumps({"rows": [row], "made_by": {"commit": "abcdefabcdef-dirty"}})
  )
  assert students.read(tmp_path) == students.Measured(
    {("student", "fid", 2): (3.0, 0.0, 4)}, "abcdefa+"
  )
