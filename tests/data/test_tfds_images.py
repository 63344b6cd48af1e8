"""Small data sets in the format of tensorflow-datasets on disk."""

import pickle
import subprocess
import sys

import numpy as np
import pytest

from dmmd_jax.data.image_source import ImageError
from dmmd_jax.data.tfds_images import load_tfds, tfds_shape

NUM_TRAIN, NUM_TEST = 20, 6
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), np.uint8)
GREY = RNG.integers(0, 256, (NUM_TRAIN, 8, 6, 1), np.uint8)
LABELS = RNG.permutation(np.arange(NUM_TRAIN + NUM_TEST) % 10)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
  """Writes CIFAR-10 in small under its own name, and data sets that tfds does not know."""
  import tensorflow_datasets as tfds

  folder, features = tmp_path_factory.mktemp("tfds"), tfds.features

  def store(name, splits, file_format="array_record", version="1.0.0", **connectors):
    tfds.dataset_builders.store_as_tfds_dataset(
      name=name,
      version=version,
      features=features.FeaturesDict(connectors),
      split_datasets={
        split: list(enumerate(dict(zip(connectors, example, strict=True)) for example in examples))
        for split, examples in splits.items()
      },
      data_dir=folder,
      file_format=file_format,
      disable_shuffling=True,
    )

  labelled = [(f"id{i}", x, y) for i, (x, y) in enumerate(zip(COLOUR, LABELS, strict=True))]
  cifar10 = {"train": labelled[:NUM_TRAIN], "test": labelled[NUM_TRAIN:]}
  store(
    "cifar10",
    cifar10,
    version="3.0.2",
    id=features.Text(),
    image=features.Image(shape=(32, 32, 3)),
    label=features.ClassLabel(num_classes=10),
  )
  grey, small = [(x,) for x in GREY], features.Image(shape=(8, 6, 1))
  store("only_train", {"train": grey}, picture=small)
  store("validated", {"train": grey[:15], "validation": grey[15:]}, image=small)
  store("only_test", {"test": grey}, image=small)
  store("no_room", {"train": grey[:1]}, image=small)
  label = features.ClassLabel(num_classes=2)
  splits = {"train": slice(10), "validation": slice(10, 14), "test": slice(14, 20)}
  splits = {split: [(GREY[i], i % 2) for i in range(20)[part]] for split, part in splits.items()}
  splits |= {"validation": [(x, 0) for x, _ in splits["validation"]]}
  splits |= {"test": [(x, 1) for x, _ in splits["test"]]}
  store("all_splits", splits, image=small, label=label)
  store("unlabelled", {"train": splits["train"], "test": [(GREY[0], -1)]}, image=small, label=label)
  store("broken", {"train": grey, "test": grey}, image=small)
  (file,) = folder.glob("broken/*/*train*.array_record*")
  content = file.read_bytes()
  start = content.index(b"IDAT") + 8
  file.write_bytes(content[:start] + bytes(4) + content[start + 4 :])
  store("in_tfrecord", {"train": grey}, file_format="tfrecord", image=small)
  store("any_size", {"train": grey, "test": grey}, image=features.Image(shape=(None, None, 1)))
  store("no_images", {"train": [("a",)] * 10}, words=features.Text())
  return folder


def test_cifar10_is_read_image_by_image(data_dir):
  data = load_tfds("cifar10", str(data_dir))
  assert data.train.shape == (NUM_TRAIN, 32, 32, 3) and len(data.train) == NUM_TRAIN
  assert data.shape == (32, 32, 3) and data.num_categories == 256
  assert data.train[3].dtype == data.held_out.dtype == np.uint8
  for i in (0, 7, np.int64(11), -1):
    np.testing.assert_array_equal(data.train[i], COLOUR[:NUM_TRAIN][i])
    assert data.train_labels[i] == LABELS[:NUM_TRAIN][i]
  for part in (slice(None), slice(2, 5), slice(None, None, -6), slice(4, 4)):
    np.testing.assert_array_equal(data.train[part], COLOUR[:NUM_TRAIN][part])
    np.testing.assert_array_equal(data.train_labels[part], LABELS[:NUM_TRAIN][part])
  np.testing.assert_array_equal(data.held_out, COLOUR[NUM_TRAIN:])
  np.testing.assert_array_equal(data.held_out_labels, LABELS[NUM_TRAIN:])
  with pytest.raises(IndexError):
    data.train[NUM_TRAIN]


def test_another_process_reads_on_without_tensorflow(data_dir, tmp_path):
  data = load_tfds("cifar10", str(data_dir))
  (tmp_path / "data").write_bytes(pickle.dumps((data.train, data.train_labels)))
  program = (
    "import pickle, sys; images, labels = pickle.load(open(sys.argv[1], 'rb'));"
    "print(images[5].sum(), labels[5], 'tensorflow' in sys.modules)"
  )
  result = subprocess.run(
    [sys.executable, "-c", program, str(tmp_path / "data")],
    capture_output=True,
    text=True,
    check=True,
  )
  assert result.stdout.split() == [str(COLOUR[5].sum()), str(LABELS[5]), "False"]


def test_a_validation_split_is_read_and_stands_in_for_a_test_split(data_dir):
  data = load_tfds("validated", str(data_dir))
  np.testing.assert_array_equal(data.train[:], GREY[:15])
  np.testing.assert_array_equal(data.held_out, GREY[15:])
  assert data.train_labels is None and data.held_out_labels is None and data.validation is None
  data = load_tfds("all_splits", str(data_dir))
  np.testing.assert_array_equal(data.validation, GREY[10:14])
  np.testing.assert_array_equal(data.held_out, GREY[14:])
  assert data.train_labels[:].tolist() == [0, 1] * 5 and data.held_out_labels.tolist() == [1] * 6
  assert data.validation_labels.tolist() == [0] * 4


def test_without_a_second_split_a_tenth_is_held_out_from_anywhere(data_dir):
  data, again = (load_tfds("only_train", str(data_dir)) for _ in range(2))
  where = {image.tobytes(): i for i, image in enumerate(GREY)}
  train, held_out = ([where[x.tobytes()] for x in part] for part in (data.train[:], data.held_out))
  assert sorted(train + held_out) == list(range(NUM_TRAIN)) and len(held_out) == 2
  # Sorted by class, the last ones would all be of one.
  assert sorted(held_out) != [18, 19]
  np.testing.assert_array_equal(data.held_out, again.held_out)


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("mnist", r"prepare it: python -c .*'mnist', data_dir='.*'\).*\(file_format='array_record'\)"),
    ("emnist/none", r"no data set 'emnist/none' .*expected a name of"),
    ("nowhere", r"no data set 'nowhere' .*expected a name of .* or npz or folder"),
    ("cifar10:9.9.9", "no data set 'cifar10:9.9.9'"),
    ("only_test", "has the splits test; expected train"),
    ("no_room", "no_room has a single image; expected at least 2"),
    ("unlabelled", "record 0 of test of unlabelled has the label -1; expected 0 to 1"),
    ("broken", r"cannot read record \d+ of train of broken: \S.*write it again"),
    ("in_tfrecord", "in tfrecord files, without random access; expected array_record: move"),
    ("any_size", r"are \[\?, \?, 1\] of uint8; expected a fixed height and width"),
    ("no_images", "has the features words; expected an image"),
  ],
)
def test_what_tfds_cannot_give_is_one_clear_line(data_dir, name, message):
  with pytest.raises(ImageError, match=message) as raised:
    load_tfds(name, str(data_dir))
  assert "\n" not in str(raised.value)


def test_shapes_are_known_before_loading(data_dir, tmp_path):
  assert tfds_shape("cifar10", str(data_dir)) == (32, 32, 3)
  assert tfds_shape("mnist", str(tmp_path)) == (28, 28, 1)
  with pytest.raises(ImageError, match="no data set 'nowhere'"):
    tfds_shape("nowhere", str(tmp_path))
