import itertools

import numpy as np

from dmmd_jax.data import digits
from dmmd_jax.data.pipeline import batches

SOURCE = np.arange(20)[:, None]


def take(n, start=0, seed=0):
  return np.array(list(itertools.islice(batches(SOURCE, 5, seed, start), n)))[..., 0]


def test_batches_from_any_start_equal_the_uninterrupted_ones():
  np.testing.assert_array_equal(take(3, start=6), take(9)[6:])


def test_every_epoch_holds_all_examples_in_an_order_of_its_own():
  first, second = take(8).reshape(2, 20)
  assert sorted(first) == sorted(second) == list(range(20))
  assert (first != second).any()
  assert (take(4).reshape(-1) != take(4, seed=1).reshape(-1)).any()


def test_digits_are_split_once_and_for_all():
  data = digits.load()
  assert data.train.shape == (1437, 8, 8, 1) and data.held_out.shape == (360, 8, 8, 1)
  assert data.train.min() == 0 and data.train.max() == 16 and data.num_categories == 17
  assert np.bincount(data.held_out_labels, minlength=10).min() >= 25
  train = {image.tobytes() for image in data.train}
  assert not any(image.tobytes() in train for image in data.held_out)
