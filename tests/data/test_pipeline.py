import dataclasses
import hashlib
import itertools
import subprocess
import sys

import numpy as np

from dmmd_jax.data import digits
from dmmd_jax.data.pipeline import Batches, Dataset, random_rows

SOURCE = np.arange(20)[:, None]
DATA = Dataset(SOURCE, SOURCE, 20, train_labels=10 * np.arange(20))


def take(n, start=0, seed=0, rows=None):
  batches = Batches(DATA, 5, seed).read(start, rows)
  return np.array([batch.tokens[:, 0] for batch in itertools.islice(batches, n)])


def test_batches_from_any_start_equal_the_uninterrupted_ones():
  np.testing.assert_array_equal(take(3, start=6), take(9)[6:])


def test_every_epoch_holds_all_examples_in_an_order_of_its_own():
  first, second = take(8).reshape(2, 20)
  assert sorted(first) == sorted(second) == list(range(20))
  assert (first != second).any()
  assert (take(4).reshape(-1) != take(4, seed=1).reshape(-1)).any()


def test_processes_read_their_own_rows_of_the_same_batches():
  whole = take(6, start=1)
  for rows in ([0, 1], [3], [2, 4]):
    np.testing.assert_array_equal(take(6, start=1, rows=np.array(rows)), whole[:, rows])


def test_no_process_reads_what_another_places():
  class Counting:
    shape, read = SOURCE.shape, []

    def __len__(self):
      return len(SOURCE)

    def __getitem__(self, i):
      self.read.append(i)
      return SOURCE[i]

  batches = Batches(Dataset(Counting(), SOURCE, 20), 5, 0)
  next(batches.read(0, np.array([1, 2])))
  ahead = take(9)[:, [1, 2]].reshape(-1)  # a thread reads a few batches ahead
  assert Counting.read == list(ahead[: len(Counting.read)]) and len(Counting.read) >= 2


def test_labels_go_with_their_examples():
  batch = next(Batches(DATA, 5, 0).read(0))
  np.testing.assert_array_equal(batch.labels, 10 * batch.tokens[:, 0])
  assert batch.tokens.dtype == batch.labels.dtype == np.int32


def test_half_of_the_images_are_mirrored_whoever_reads_them():
  images = np.arange(16 * 2 * 3).reshape(16, 2, 3, 1)
  batches = Batches(Dataset(images, images, 100, flip=True), 16, 0)
  tokens = next(batches.read(5)).tokens
  plain = {image.tobytes() for image in images.astype(np.int32)}
  mirrored = {image.tobytes() for image in images[:, :, ::-1].astype(np.int32)}
  found = [image.tobytes() in plain for image in tokens]
  assert 3 <= sum(found) <= 13
  assert all(f or image.tobytes() in mirrored for f, image in zip(found, tokens, strict=True))
  part = next(batches.read(5, np.array([3, 4]))).tokens
  np.testing.assert_array_equal(part, tokens[[3, 4]])


WORKERS = """
import numpy as np
from absl import app
from tests.data.test_pipeline import DATA, Batches, take

def main(_):
  batches = Batches(DATA, 5, 0, workers=2).read(3)
  np.testing.assert_array_equal([next(batches).tokens[:, 0] for _ in range(9)], take(9, start=3))
  print("same")

if __name__ == "__main__":
  app.run(main)
"""


def test_worker_processes_read_the_same_batches(tmp_path):
  """In a program of its own, as main is: workers import the program that started them."""
  (tmp_path / "program.py").write_text(WORKERS)
  command = [sys.executable, str(tmp_path / "program.py")]
  environment = {"PYTHONPATH": "."}
  done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
  assert done.stdout == "same\n", done.stderr


def test_digits_are_split_once_and_for_all():
  data = digits.load()
  splits = data.train, data.validation, data.held_out
  assert [x.shape for x in splits] == [(n, 8, 8, 1) for n in (1077, 360, 360)]
  assert data.train.min() == 0 and data.train.max() == 16 and data.num_categories == 17
  for labels in (data.train_labels, data.validation_labels, data.held_out_labels):
    assert np.bincount(labels, minlength=10).min() >= 25
  every = {image.tobytes() for images in splits for image in images}
  assert len(every) == 1797
  # The test split of all results so far.
  digest = hashlib.sha256(data.held_out.tobytes() + data.held_out_labels.tobytes()).hexdigest()
  assert digest.startswith("413230046c3e9eb6")
  np.testing.assert_array_equal(digits.load().validation, data.validation)


class Lazy:
  """Rows that are read one by one, as images on disk are."""

  def __init__(self, rows):
    self.rows, self.read = rows, []

  def __len__(self):
    return len(self.rows)

  def __getitem__(self, i):
    assert isinstance(i, int)
    self.read.append(i)
    return self.rows[i]


def test_random_rows_are_a_fixed_random_draw_and_nothing_else_is_read():
  rows = np.arange(3000).reshape(1000, 3)
  drawn = random_rows(rows, 100)
  assert drawn.shape == (100, 3) and len({*drawn[:, 0]}) == 100
  # Of a random draw a tenth comes from each tenth, in no order.
  assert np.bincount(drawn[:, 0] // 300, minlength=10).min() >= 3
  assert np.bincount(drawn[:20, 0] // 300, minlength=10).max() <= 8
  lazy = Lazy(rows)
  np.testing.assert_array_equal(random_rows(lazy, 100), drawn)
  assert len(lazy.read) == 100
  np.testing.assert_array_equal(random_rows(rows[:, 1], 100), drawn[:, 1])
  for num in (1000, 1001):
    every = random_rows(rows, num)
    assert (every != rows).any()
    np.testing.assert_array_equal(np.sort(every, 0), rows)


def test_classes_are_counted_wherever_they_are_stored():
  images, labels = np.zeros((30_000, 1), np.uint8), np.arange(30_000) // 1000
  assert Dataset(images, images[:2], 2, labels, np.array([3, 4])).num_classes == 30
  assert Dataset(images, images[:2], 2, Lazy(labels), np.array([3, 4])).num_classes == 30
  assert Dataset(images, images[:2], 2, labels, np.array([30, 4])).num_classes == 31
  assert Dataset(images, images[:2], 2, labels, validation_labels=labels + 2).num_classes == 32
  assert Dataset(images, images[:2], 2).num_classes == 0


def test_a_fingerprint_tells_other_data():
  images = np.arange(40).reshape(10, 2, 2, 1) % 7
  labels = np.arange(10) % 2
  data = Dataset(images[:6], images[6:], 7, labels[:6], labels[6:])
  same = Dataset(
    images[:6].astype(np.uint8), images[6:], 7, labels[:6].astype(np.int64), labels[6:]
  )
  assert data.fingerprint == same.fingerprint
  swapped = images.copy()
  swapped[[0, 1]] = swapped[[1, 0]]
  for change in (
    {"train": swapped[:6]},
    {"held_out": images[6:] + 1},
    {"train_labels": 1 - labels[:6]},
    {"held_out_labels": None},
    {"validation": images[:2]},
    {"num_categories": 8},
    {"flip": True},
    {"train": images[:5]},
  ):
    assert dataclasses.replace(data, **change).fingerprint != data.fingerprint, change
