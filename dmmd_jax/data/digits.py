"""The 1,797 handwritten digits of 8x8 pixels and 17 grey levels that ship with scikit-learn."""

import numpy as np

from dmmd_jax.data.pipeline import Dataset

NUM_HELD_OUT = 360


def load() -> Dataset:
  """Digits as tokens int32 `[N, 8, 8, 1]`: 1,437 to train on and 360 held out, a fixed split."""
  from sklearn.datasets import load_digits

  digits = load_digits()
  order = np.random.default_rng(0).permutation(len(digits.target))
  images = digits.images[order].astype(np.int32)[..., None]
  labels = digits.target[order].astype(np.int32)
  return Dataset(
    train=images[NUM_HELD_OUT:],
    held_out=images[:NUM_HELD_OUT],
    num_categories=17,
    train_labels=labels[NUM_HELD_OUT:],
    held_out_labels=labels[:NUM_HELD_OUT],
  )
