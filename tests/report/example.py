"""A small evaluation, as phases hand it over."""

import dataclasses

import numpy as np

from dmmd_jax.report import Evaluation


def row(model, nfe, metric, value, stderr, steps=None):
  steps = steps or nfe
  return {
    "model": model, "steps": steps, "nfe": nfe, "metric": metric, "value": value,
    "stderr": stderr, "num_samples": 1080,
  }  # fmt: skip


def seconds(model, nfe, value, steps=None):
  return {"model": model, "steps": steps or nfe, "nfe": nfe, "seconds_per_sample": value}


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
  "seconds": [
    seconds("teacher", 2, 0.001, steps=1),
    seconds("teacher", 8, 0.004, steps=4),
    seconds("student", 1, 0.0123),
  ],
  "config": {
    "dataset": {"name": "digits"}, "process": {"name": "masked"},
    "network": {"name": "transformer", "width": 128}, "seed": 5,
  },
  "inputs": {
    "teacher": {"finished": True, "step": 2400, "digest": "7eac", "config": {}},
    "student": {
      "finished": False, "step": 7, "digest": "57d",
      "config": {"distill": {"student_nfe": 8, "method": "dmmd"}},
    },
    "data": {"fingerprint": "da7a"},
  },
  "made_by": {"device": "1 x 1 x 1 cpu", "jax": "0.10.0", "commit": None},
}  # fmt: skip


def images(n, seed=0):
  return np.random.default_rng(seed).integers(0, 17, (n, 4, 4, 1)).astype(np.uint8)


def evaluation(**changes):
  """Images of 17 levels, drawn by both models and filmed while the masks, 17, go."""
  masks = np.full((4, 4, 4, 1), 17)
  paths = {
    "teacher, 8 NFE": np.stack([masks, masks, masks, masks, images(4)]),
    "student, 1 NFE": np.stack([masks, images(4, 1)]),
  }
  found = Evaluation(
    title="mine",
    results=RESULTS,
    samples={"teacher": {1: images(30), 4: images(30, 1)}, "student": {1: images(30, 2)}},
    digests={"teacher": "7eac", "student": "57d"},
    real=images(30, 3),
    paths=paths,
    num_categories=17,
  )
  return dataclasses.replace(found, **changes)
