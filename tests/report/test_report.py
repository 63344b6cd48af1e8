"""What an evaluation leaves in its folder."""

import json

import numpy as np
import pytest

from dmmd_jax import report
from tests.report.example import RESULTS, evaluation


def test_files_of_an_earlier_evaluation_are_gone_and_others_stay(tmp_path):
  for name in ("samples_teacher_64.npz", "samples_old.png", "samples.md", "film.gif"):
    (tmp_path / name).write_bytes(b"old")
  for name in ("config.json", "notes.txt"):
    (tmp_path / name).write_bytes(b"kept")
  report.save(tmp_path, evaluation(paths={}))
  assert {path.name for path in tmp_path.iterdir()} == {
    "config.json", "notes.txt", "results.json", "results.md", "report.html", "quality_vs_nfe.png",
    "samples_teacher.png", "samples_student.png", "samples_teacher_2.npz", "samples_teacher_8.npz",
    "samples_student_1.npz", "samples_real.npz",
  }  # fmt: skip
  assert (tmp_path / "config.json").read_bytes() == b"kept"


def test_texts_and_a_film_are_left_too(tmp_path):
  tokens = np.zeros((3, 5), int)
  found = evaluation(
    samples={"teacher": {1: tokens, 4: tokens}, "student": {1: tokens}},
    real=tokens,
    paths={"teacher, 8 NFE": np.stack([tokens, tokens])},
    decode=lambda row: "a" * len(row),
  )
  report.save(tmp_path, found)
  assert (tmp_path / "film.gif").read_bytes().startswith(b"GIF89a")
  assert "aaaaa" in (tmp_path / "samples.md").read_text()
  assert "<blockquote>aaaaa</blockquote>" in (tmp_path / "report.html").read_text()
  assert not list(tmp_path.glob("samples_*.png"))


def test_results_are_written_last(tmp_path, monkeypatch):
  """Without them a killed evaluation is not complete, whatever else it has left."""
  (tmp_path / "results.json").write_text("old")

  def killed(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(report.figures, "save_quality", killed)
  with pytest.raises(KeyboardInterrupt):
    report.save(tmp_path, evaluation(paths={}))
  assert (tmp_path / "report.html").exists() and not (tmp_path / "results.json").exists()


def test_results_are_written_whole(tmp_path):
  report.save_results(tmp_path, RESULTS)
  written = json.loads((tmp_path / "results.json").read_text())
  assert written == json.loads(json.dumps(RESULTS))
  text = (tmp_path / "results.md").read_text()
  assert text.startswith(report.results_table(RESULTS))
  assert (
    "Teacher (upper bound): 2.346 ± 0.013 bits per token of the held-out split, perplexity" in text
  )
  assert "The student is not finished: measured at step 7." in text
  assert "The teacher is not finished" not in text
  assert "The student at 1 NFE is between the teacher at 2 and at 8." in text
  assert (tmp_path / "quality_vs_nfe.png").read_bytes().startswith(b"\x89PNG")
