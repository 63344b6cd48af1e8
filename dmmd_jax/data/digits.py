"""The 1,797 handwritten digits of 8x8 pixels and 17 grey levels that ship with scikit-learn."""

import numpy as np

from dmmd_jax.data.pipeline import Dataset

NUM_HELD_OUT = NUM_VALIDATION = 360


def load() -> Dataset:
  """Digits as tokens int32 `[N, 8, 8, 1]`, a fixed random split.

  1,077 are to train on, 360 to choose settings by, and 360 are held out.
  """
  from sklearn.datasets import load_digits

  digits = load_digits()
  order = np.random.default_rng(0).permutation(len(digits.target))
  ends = [NUM_HELD_OUT, NUM_HELD_OUT + NUM_VALIDATION]
  held_out, validation, train = np.split(digits.images[order].astype(np.int32)[..., None], ends)
  labels = np.split(digits.target[order].astype(np.int32), ends)
  return Dataset(
    train=train,
    held_out=held_out,
    validation=validation,
    num_categories=17,
    held_out_labels=labels[0],
    validation_labels=labels[1],
    train_labels=labels[2],
  )
