"""Small data sets in the format of tensorflow-datasets on disk, in npz files and in folders."""

import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dmmd_jax.data import images
from dmmd_jax.data.images import ImageError

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
  store("no_room", {"train": grey[:2]}, image=small)
  store("in_tfrecord", {"train": grey}, file_format="tfrecord", image=small)
  store("any_size", {"train": grey, "test": grey}, image=features.Image(shape=(None, None, 1)))
  store("no_images", {"train": [("a",)] * 10}, words=features.Text())
  return folder


def test_cifar10_is_read_image_by_image(data_dir):
  data = images.load_tfds("cifar10", str(data_dir))
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
  data = images.load_tfds("cifar10", str(data_dir))
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


@pytest.mark.parametrize(("name", "num_held_out"), [("only_train", 2), ("validated", 5)])
def test_other_splits_stand_in_for_a_test_split(data_dir, name, num_held_out):
  data = images.load_tfds(name, str(data_dir))
  np.testing.assert_array_equal(data.train[:], GREY[:-num_held_out])
  np.testing.assert_array_equal(data.held_out, GREY[-num_held_out:])
  assert data.train_labels is None and data.held_out_labels is None


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("mnist", r"prepare it: python -c .*'mnist', data_dir='.*'\).*\(file_format='array_record'\)"),
    ("emnist/none", r"no data set 'emnist/none' .*expected a name of"),
    ("nowhere", r"no data set 'nowhere' .*expected a name of .* or npz or folder"),
    ("cifar10:9.9.9", "no data set 'cifar10:9.9.9'"),
    ("only_test", "has the splits test; expected train"),
    ("no_room", r"train\[90%:\] of no_room has no images"),
    ("in_tfrecord", "in tfrecord files, without random access; expected array_record: move"),
    ("any_size", r"are \[\?, \?, 1\] of uint8; expected a fixed height and width"),
    ("no_images", "has the features words; expected an image"),
  ],
)
def test_what_tfds_cannot_give_is_one_clear_line(data_dir, name, message):
  with pytest.raises(ImageError, match=message) as raised:
    images.load_tfds(name, str(data_dir))
  assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
  "names",
  [("train", "train_labels", "test", "test_labels"), ("x_train", "y_train", "x_test", "y_test")],
)
def test_npz_with_splits(tmp_path, names):
  train, test = COLOUR[:NUM_TRAIN], COLOUR[NUM_TRAIN:].astype(np.int64)
  arrays = (train, LABELS[:NUM_TRAIN, None], test, LABELS[NUM_TRAIN:, None])
  np.savez_compressed(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
  data = images.load_npz(str(tmp_path / "a.npz"))
  np.testing.assert_array_equal(data.train, train)
  np.testing.assert_array_equal(data.held_out, test)
  assert data.train.dtype == data.held_out.dtype == np.uint8 and data.num_categories == 256
  np.testing.assert_array_equal(data.train_labels, LABELS[:NUM_TRAIN])
  np.testing.assert_array_equal(data.held_out_labels, LABELS[NUM_TRAIN:])


def test_npz_without_splits_holds_out_a_tenth(tmp_path):
  path = str(tmp_path / "a.npz")
  np.savez(path, images=GREY[..., 0], labels=np.arange(NUM_TRAIN))
  data, again = images.load_npz(path), images.load_npz(path)
  assert data.train.shape == (18, 8, 6, 1) and data.held_out.shape == (2, 8, 6, 1)
  order = np.concatenate([data.train_labels, data.held_out_labels])
  assert sorted(order) == list(range(NUM_TRAIN))
  np.testing.assert_array_equal(np.concatenate([data.train, data.held_out]), GREY[order])
  np.testing.assert_array_equal(data.held_out_labels, again.held_out_labels)
  np.savez(path, images=GREY, test_images=GREY[:4], labels=np.arange(NUM_TRAIN))
  assert images.load_npz(path).train_labels is None


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"pixels": GREY}, "has the arrays pixels; expected train or images"),
    ({"train": GREY / 255}, r"train in .* is float64 \[20, 8, 6, 1\].*expected integers"),
    ({"train": GREY[0, 0]}, r"is uint8 \[6, 1\]"),
    ({"train": GREY.astype(int) - GREY.min() - 1}, "values -1 to \\d+; expected .* from 0 to 255"),
    ({"train": GREY > 9}, "is bool .*; expected integers"),
    ({"train": GREY[:0]}, r"is uint8 \[0, 8, 6, 1\]; expected"),
    ({"train": GREY[:1]}, "has 1 images; expected at least 2"),
    ({"train": GREY, "train_labels": LABELS}, "is int64 .*; expected 20 integers"),
    ({"train": GREY, "test": COLOUR}, r"images \[32, 32, 3\] in test; expected \[8, 6, 1\]"),
    ({"train": np.array([None])}, "cannot read .*allow_pickle"),
  ],
)
def test_an_npz_file_that_will_not_do_is_one_clear_line(tmp_path, arrays, message):
  np.savez(tmp_path / "a.npz", **arrays)
  with pytest.raises(ImageError, match=message):
    images.load_npz(str(tmp_path / "a.npz"))


def test_what_is_not_an_npz_file_is_one_clear_line(tmp_path):
  np.save(tmp_path / "a.npy", GREY)
  (tmp_path / "empty.npz").touch()
  (tmp_path / "text.npz").write_text("PK\3\4 and no more")
  for name in ("a.npy", "empty.npz", "text.npz", "missing.npz"):
    for read in (images.load_npz, lambda path: images.shape_of("npz", path)):
      with pytest.raises(ImageError, match=f"cannot read .*{name}: "):
        read(str(tmp_path / name))


def write_pngs(folder: pathlib.Path, pixels: np.ndarray, names: list[str]) -> None:
  for image, name in zip(pixels, names, strict=True):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(folder / name)


def test_a_folder_with_classes_holds_out_a_tenth(tmp_path):
  names = [f"{'ab'[i % 2]}/deep/{i:02}.PNG" for i in range(NUM_TRAIN)]
  write_pngs(tmp_path, GREY, names)
  data = images.load_folder(str(tmp_path))
  assert data.train.shape == (18, 8, 6, 1) and data.held_out.shape == (2, 8, 6, 1)
  kept = pickle.loads(pickle.dumps(data.train))[:]
  where = {image.tobytes(): i for i, image in enumerate(GREY)}
  order = [where[image.tobytes()] for image in (*kept, *data.held_out)]
  assert sorted(order) == list(range(NUM_TRAIN))
  np.testing.assert_array_equal([*data.train_labels, *data.held_out_labels], np.array(order) % 2)


def test_a_folder_of_colour_with_splits(tmp_path):
  names = [f"{'train' if i < NUM_TRAIN else 'test'}/{i:02}.png" for i in range(len(COLOUR))]
  write_pngs(tmp_path, COLOUR, names)
  data = images.load_folder(str(tmp_path))
  np.testing.assert_array_equal(data.train[:], COLOUR[:NUM_TRAIN])
  np.testing.assert_array_equal(data.held_out, COLOUR[NUM_TRAIN:])
  assert data.train_labels is None and data.held_out_labels is None
  # Classes lie below the splits; other folders beside them are left alone.
  write_pngs(tmp_path, GREY[:1], ["other/0.png"])
  for name, label in zip(names, LABELS, strict=True):
    split, file = name.split("/")
    (tmp_path / split / str(label)).mkdir(exist_ok=True)
    (tmp_path / name).rename(tmp_path / split / str(label) / file)
  data = images.load_folder(str(tmp_path))
  assert data.held_out.shape == (NUM_TEST, 32, 32, 3)
  assert sorted(data.train_labels) == sorted(LABELS[:NUM_TRAIN])
  assert sorted(data.held_out_labels) == sorted(LABELS[NUM_TRAIN:])


def test_a_folder_that_will_not_do_is_one_clear_line(tmp_path):
  def refuses(message):
    with pytest.raises(ImageError, match=message):
      images.load_folder(str(tmp_path))

  refuses("no PNG files below")
  write_pngs(tmp_path, GREY[:1], ["0.png"])
  refuses("1 images; expected at least 2")
  write_pngs(tmp_path, GREY, [f"{i}.png" for i in range(NUM_TRAIN)])
  Image.fromarray(GREY[0, :, :, 0].T).save(tmp_path / "7.png")
  refuses(r"7.png is L of 8x6 pixels; expected L of 6x8 pixels")
  Image.fromarray(GREY[0, :, :, 0]).convert("P").save(tmp_path / "7.png")
  refuses(r"7.png is P of 6x8 pixels; expected L or RGB")
  (tmp_path / "7.png").write_bytes(b"nothing")
  refuses("cannot read .*7.png")
  for split in ("train", "test"):
    (tmp_path / split).mkdir()
  refuses("0 PNG files in train and 0 in test")


def test_shapes_are_known_before_loading(data_dir, tmp_path):
  assert images.shape_of("cifar10", str(data_dir)) == (32, 32, 3)
  assert images.shape_of("mnist", str(tmp_path)) == (28, 28, 1)
  np.savez(tmp_path / "a.npz", images=GREY[..., 0])
  assert images.shape_of("npz", str(tmp_path / "a.npz")) == (8, 6, 1)
  np.savez(tmp_path / "flat.npz", train=GREY[0, 0])
  with pytest.raises(ImageError, match=r"is uint8 \[6, 1\]"):
    images.shape_of("npz", str(tmp_path / "flat.npz"))
  write_pngs(tmp_path, GREY[:1], ["0.png"])
  assert images.shape_of("folder", str(tmp_path)) == (8, 6, 1)
  with pytest.raises(ImageError, match="no data set 'nowhere'"):
    images.shape_of("nowhere", str(tmp_path))


def test_stripes_are_the_same_every_time_and_told_apart_by_class():
  data, again = images.stripes(), images.stripes()
  assert data.train.shape == (512, 32, 32, 3) and data.held_out.shape == (256, 32, 32, 3)
  assert data.train.dtype == np.uint8 and data.num_categories == 256
  np.testing.assert_array_equal(data.train, again.train)
  assert set(data.train_labels) == set(data.held_out_labels) == set(range(10))
  # The mean colour of an image alone is close to that of its class.
  colours = data.train.mean((1, 2))
  means = np.stack([colours[data.train_labels == k].mean(0) for k in range(10)])
  distances = np.linalg.norm(data.held_out.mean((1, 2))[:, None] - means, axis=-1)
  assert np.mean(distances.argmin(1) == data.held_out_labels) > 0.9
  assert images.stripes((8, 6, 1), 3, 2).train.shape == (3, 8, 6, 1)
