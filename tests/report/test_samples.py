"""Samples that other programs read: how many, of which model, and at how many NFE."""

import numpy as np
import pytest

from dmmd_jax import cli
from dmmd_jax.report import samples
from tests.report.example import evaluation, images


def read(path):
  with np.load(path, allow_pickle=False) as file:
    return {name: file[name].item() for name in file.files if name != "tokens"}


def test_files_are_named_by_nfe_and_say_what_made_them(tmp_path):
  samples.save_all(tmp_path, evaluation())
  assert {path.name for path in tmp_path.iterdir()} == {
    "samples_teacher_2.npz", "samples_teacher_8.npz", "samples_student_1.npz", "samples_real.npz",
  }  # fmt: skip
  about = {"model": "teacher", "steps": 4, "nfe": 8, "seed": 5, "digest": "7eac"}
  assert read(tmp_path / "samples_teacher_8.npz") == about
  about = {"model": "real", "split": "held_out", "digest": "da7a"}
  assert read(tmp_path / "samples_real.npz") == about
  tokens = cli.load_array(str(tmp_path / "samples_teacher_8.npz"))
  np.testing.assert_array_equal(tokens, images(30, 1))


@pytest.mark.parametrize(
  ("categories", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (65537, "uint32")]
)
def test_tokens_have_the_smallest_dtype(categories, dtype):
  tokens = np.array([[0, categories - 1]])
  kept = samples.kept(tokens, categories)
  assert kept.dtype == dtype
  np.testing.assert_array_equal(kept, tokens)


def test_files_are_bounded_in_examples_and_in_bytes(monkeypatch):
  tokens = np.arange(60).reshape(20, 3)
  monkeypatch.setattr(samples, "MAX_EXAMPLES", 15)
  np.testing.assert_array_equal(samples.kept(tokens, 60), tokens[:15])
  monkeypatch.setattr(samples, "MAX_BYTES", 60)
  assert len(samples.kept(tokens, 300)) == 10  # of 6 bytes
  monkeypatch.setattr(samples, "MAX_BYTES", 2)
  assert len(samples.kept(tokens, 60)) == 1


def test_texts_are_the_first_of_each_model_and_its_steps(tmp_path):
  tokens = np.arange(30)[:, None]
  texts = {"teacher": {1: tokens, 4: tokens + 5}, "student": {1: tokens}}
  found = evaluation(samples=texts, decode=lambda row: f"``` {row[0]}")
  samples.save_texts(tmp_path, found)
  parts = (tmp_path / "samples.md").read_text().split("## ")
  assert parts[1].startswith('teacher, 1 steps\n\n```\n""" 0\n---\n')
  assert parts[1].count("---") == 7 and parts[2].startswith("teacher, 4 steps")
  assert parts[3].startswith("student, 1 steps")


@pytest.mark.parametrize("shape", [(4, 2, 2, 1), (4, 5)])
def test_pictures_of_images_and_of_sequences(tmp_path, shape):
  found = evaluation(samples={"teacher": {1: np.zeros(shape, int), 2: np.ones(shape, int)}})
  samples.save_images(tmp_path, found)
  assert (tmp_path / "samples_teacher.png").read_bytes().startswith(b"\x89PNG")
