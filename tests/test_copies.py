"""`benchmarks.copies`: what is found of samples in training data, and in data that are as many."""

import argparse
import sys
import types

import numpy as np
import pytest

from benchmarks import copies
from configs import coins_dmmd, digits_dmmd, text_dmmd
from dmmd_jax import drawing, records
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.phases import build


def test_distances_are_those_to_the_nearest(monkeypatch):
  rng = np.random.default_rng(0)
  monkeypatch.setattr(copies, "_CHUNK", 3)
  x, images = (rng.integers(0, 17, (n, 2, 2, 1)).astype(np.uint8) for n in (5, 8))
  images[7] = x[2]
  expected = [min(np.linalg.norm(a.astype(float) - b) for b in images) for a in x]
  np.testing.assert_allclose(copies.distances(x, images), expected, atol=1e-6)
  assert expected[2] == 0 < expected[0]


def test_runs_are_found_wherever_they_stand():
  texts = np.array([[1, 2, 3, 4, 300], [5, 6, 7, 8, 9]])
  x = np.array([[0, 1, 2, 3, 4], [9, 8, 7, 6, 5], [2, 3, 4, 44, 300 % 256]])
  # Not across two texts, and no byte for a token.
  np.testing.assert_allclose(copies.found_in(x, texts, 3), [2 / 3, 0.0, 1 / 3])


def samples_of(kind, monkeypatch):
  """Rows for a student whose samples are training data, and for a teacher's, which are not."""
  rng = np.random.default_rng(1)
  shape, config = ((4, 4, 1), digits_dmmd) if kind == "images" else ((40,), text_dmmd)
  train, held_out, validation, new = (
    rng.integers(0, 5, (n, *shape)).astype(np.uint8) for n in (60, 30, 15, 20)
  )
  dataset = Dataset(train, held_out, 5, validation=validation)
  monkeypatch.setattr(build, "make_dataset", lambda _: dataset)
  find = lambda path, kind: types.SimpleNamespace(config=config.get_config(), kind=kind)
  monkeypatch.setattr(records, "find_model", find)
  denoiser = types.SimpleNamespace(num_classes=0, evaluations=lambda steps: steps)
  load = lambda source, *_: types.SimpleNamespace(
    denoiser=denoiser, num_steps=lambda nfe: nfe, sampler=source.kind
  )
  monkeypatch.setattr(drawing, "load", load)
  monkeypatch.setattr(drawing, "make_draw", lambda *args: args[1:])
  asked = []

  def draw_batches(model, draw, seed, labels):
    asked.append(draw[0])
    yield (train if model.sampler == "student" else new)[: len(labels) // 2]
    yield (train if model.sampler == "student" else new)[len(labels) // 2 : len(labels)]

  monkeypatch.setattr(drawing, "draw_batches", draw_batches)
  args = argparse.Namespace(
    models=["teacher=t", "ours=o"], nfe=(1, 2), teacher_nfe=(64,), num=20, split="held_out"
  )
  rows = list(copies.rows(args))
  assert asked == [64, 1, 2]
  names = "15 validation examples", "teacher, 64 NFE", "ours, 1 NFE", "ours, 2 NFE"
  assert tuple(dict.fromkeys(row["model"] for row in rows)) == names
  return {(row["model"], row["metric"]): row["value"] for row in rows}


def test_copies_of_images_are_told_from_samples(monkeypatch):
  found = samples_of("images", monkeypatch)
  for name in ("15 validation examples", "teacher, 64 NFE"):
    assert found[name, "distance to training"] == pytest.approx(
      found[name, "distance to test"], rel=0.1
    )
    assert found[name, "least distance to any training"] > 2
  # Half of the training images are compared with, as there are test images.
  ours = found["ours, 2 NFE", "distance to training"] / found["ours, 2 NFE", "distance to test"]
  assert 0.2 < ours < 0.8 and found["ours, 2 NFE", "least distance to any training"] == 0


def test_copies_of_text_are_told_from_samples(monkeypatch):
  monkeypatch.setattr(copies, "RUNS", (5, 8))
  found = samples_of("text", monkeypatch)
  for name in ("15 validation examples", "teacher, 64 NFE"):
    # 30 texts have a third of all runs of 5.
    for part in ("training", "test"):
      assert 0.2 < found[name, f"runs of 5 in {part}"] < 0.4
    assert found[name, "runs of 8 in training"] < 0.02
  assert 0.2 < found["ours, 1 NFE", "runs of 8 in training"] < 0.8
  assert found["ours, 1 NFE", "runs of 8 in test"] < 0.02


def test_what_has_no_copies_is_refused(monkeypatch, capsys):
  source = types.SimpleNamespace(config=coins_dmmd.get_config())
  monkeypatch.setattr(records, "find_model", lambda *_: source)
  monkeypatch.setattr(sys, "argv", ["copies", "teacher=runs/coins"])
  with pytest.raises(SystemExit, match="neither images nor text"):
    copies.main()
  monkeypatch.setattr(sys, "argv", ["copies", "runs/coins"])
  with pytest.raises(SystemExit):
    copies.main()
  assert "no NAME=WORKDIR" in capsys.readouterr().err
  monkeypatch.setattr(sys, "argv", ["copies", "a=runs/coins", "a=runs/other"])
  with pytest.raises(SystemExit):
    copies.main()
  assert "one name" in capsys.readouterr().err


def test_data_without_validation_have_no_row_of_it():
  train = np.random.default_rng(2).integers(0, 5, (9, 4, 4, 1)).astype(np.uint8)
  dataset = Dataset(train, train[:3], 5)
  args = argparse.Namespace(split="held_out", num=5)
  assert list(copies._of_data(dataset, digits_dmmd.get_config(), args)) == []
  args.split = "validation"
  with pytest.raises(SystemExit, match="no split 'validation'"):
    list(copies._of_data(dataset, digits_dmmd.get_config(), args))
