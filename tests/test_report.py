"""Tables and figures say what was measured, on what, and at which price."""

import json

import numpy as np
import pytest

from dmmd_jax import report


def row(model, nfe, metric, value, stderr, steps=None):
  steps = steps or nfe
  return {
    "model": model, "steps": steps, "nfe": nfe, "metric": metric, "value": value,
    "stderr": stderr, "num_samples": 1080,
  }  # fmt: skip


RESULTS = {
  "split": "held_out",
  "rows": [
    row("teacher", 2, "frechet", 12.3456, 0.0123, steps=1),
    row("teacher", 8, "frechet", 1.0, 0.25, steps=4),
    row("student", 1, "frechet", 3.5, None),
    row("student", 1, "entropy", 0.25, 0.05),
  ],
  "reference": {"frechet": (0.5, None)},
  "reference_split": "validation",
  "bits_per_token": {"Teacher (upper bound)": (2.34567, 0.0131)},
  "seconds": [{"model": "student", "steps": 1, "nfe": 1, "seconds_per_sample": 0.0123}],
  "inputs": {"teacher": {"finished": True}, "student": {"finished": False, "step": 7}},
}


def test_a_table_has_models_in_rows_and_evaluations_in_columns():
  lines = report.results_table(RESULTS).splitlines()
  assert lines[:6] == [
    "### Fréchet distance to held-out data (classifier features; lower is better)",
    "",
    "| model \\ NFE | 1 | 2 | 8 |",
    "|---|---|---|---|",
    "| teacher |  | 12.346 ± 0.012 | 1.00 ± 0.25 |",
    "| student | 3.500 |  |  |",
  ]
  assert lines[7] == "Real data (validation split) in place of samples: 0.500."
  entropy = lines.index("### Mean entropy of the predictions (nats per position)")
  assert lines[entropy + 5] == "| student | 0.250 ± 0.050 |  |  |"
  times = lines.index("### Milliseconds per sample")
  assert lines[times + 4 : times + 6] == ["| teacher |  |  |  |", "| student | 12.30 |  |  |"]
  assert lines[-2] == (
    "1080 samples per cell, measured against the held-out split; ± is one standard error over"
    " blocks."
  )
  for spent in ("two under guidance", "one that writes it to the cache", "one after the other"):
    assert spent in lines[-1]


def test_a_table_says_that_it_is_to_choose_settings_by():
  chosen = RESULTS | {"split": "validation", "reference_split": "train"}
  table = report.results_table(chosen)
  assert "measured against the validation split" in table and "held-out split" not in table
  assert "Real data (training split) in place of samples" in table


@pytest.mark.parametrize(
  ("value", "stderr", "expected"),
  [
    (1.23456, None, "1.235"),
    (1.23456, 0.0, "1.235"),
    (1.23456, float("nan"), "1.235"),
    (1.23456, 0.1, "1.23 ± 0.10"),
    (1.23456, 0.0123, "1.235 ± 0.012"),
    (1.23456, 0.00999, "1.2346 ± 0.0100"),
    (123.456, 25.0, "123.5 ± 25.0"),
    (1e-9, 1e-12, "0.0000000 ± 0.0000000"),
  ],
)
def test_numbers_have_two_digits_of_their_error(value, stderr, expected):
  assert report._number(value, stderr) == expected


def test_results_are_written_whole(tmp_path):
  report.save_results(tmp_path, RESULTS)
  written = json.loads((tmp_path / "results.json").read_text())
  assert written == json.loads(json.dumps(RESULTS))
  text = (tmp_path / "results.md").read_text()
  assert text.startswith(report.results_table(RESULTS))
  assert "Teacher (upper bound): 2.346 ± 0.013 bits per token of the held-out split." in text
  assert "The student is not finished: measured at step 7." in text
  assert "The teacher is not finished" not in text
  assert (tmp_path / "quality_vs_nfe.png").read_bytes().startswith(b"\x89PNG")


def test_texts_are_the_first_of_each_model_and_its_steps(tmp_path):
  tokens = np.arange(10)[:, None]
  report.save_texts(tmp_path, {"student": {4: tokens, 8: tokens + 5}}, lambda row: f"``` {row[0]}")
  parts = (tmp_path / "samples.md").read_text().split("## ")
  assert parts[1].startswith('student, 4 steps\n\n```\n""" 0\n---\n')
  assert parts[1].count("---") == 7 and parts[2].startswith("student, 8 steps")


def test_images_are_tiled_row_by_row():
  images = np.arange(5)[:, None, None, None] + np.ones((5, 2, 3, 1))
  tiled = report.tile(images, rows=2, columns=3)
  assert tiled.shape == (2 * 3, 3 * 4, 1)
  corners = tiled[::3, ::4, 0]
  np.testing.assert_array_equal(corners, [[1, 2, 3], [4, 5, 0]])
  assert (tiled[2::3] == 0).all() and (tiled[:, 3::4] == 0).all()


@pytest.mark.parametrize("shape", [(4, 2, 2, 1), (4, 5)])
def test_pictures_of_images_and_of_sequences(tmp_path, shape):
  report.save_images(tmp_path, {"teacher": {1: np.zeros(shape, int), 2: np.ones(shape, int)}}, 4)
  assert (tmp_path / "samples_teacher.png").read_bytes().startswith(b"\x89PNG")
