"""Images and labels in npz files, good ones and others."""

import numpy as np
import pytest

from dmmd_jax.data.image_source import ImageError
from dmmd_jax.data.npz import load_npz, npz_shape

NUM_TRAIN, NUM_TEST = 20, 6
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), np.uint8)
GREY = RNG.integers(0, 256, (NUM_TRAIN, 8, 6, 1), np.uint8)
LABELS = RNG.permutation(np.arange(NUM_TRAIN + NUM_TEST) % 10)


@pytest.mark.parametrize(
  "names",
  [("train", "train_labels", "test", "test_labels"), ("x_train", "y_train", "x_test", "y_test")],
)
def test_npz_with_splits(tmp_path, names):
  train, test = COLOUR[:NUM_TRAIN], COLOUR[NUM_TRAIN:].astype(np.int64)
  arrays = (train, LABELS[:NUM_TRAIN, None], test, LABELS[NUM_TRAIN:, None])
  np.savez_compressed(tmp_path / "a.npz", **dict(zip(names, arrays, strict=True)))
  data = load_npz(str(tmp_path / "a.npz"))
  np.testing.assert_array_equal(data.train, train)
  np.testing.assert_array_equal(data.held_out, test)
  assert data.train.dtype == data.held_out.dtype == np.uint8 and data.num_categories == 256
  np.testing.assert_array_equal(data.train_labels, LABELS[:NUM_TRAIN])
  np.testing.assert_array_equal(data.held_out_labels, LABELS[NUM_TRAIN:])


def test_npz_without_splits_holds_out_a_tenth(tmp_path):
  path = str(tmp_path / "a.npz")
  np.savez(path, images=GREY[..., 0], labels=np.arange(NUM_TRAIN))
  data, again = load_npz(path), load_npz(path)
  assert data.train.shape == (18, 8, 6, 1) and data.held_out.shape == (2, 8, 6, 1)
  order = np.concatenate([data.train_labels, data.held_out_labels])
  assert sorted(order) == list(range(NUM_TRAIN))
  np.testing.assert_array_equal(np.concatenate([data.train, data.held_out]), GREY[order])
  np.testing.assert_array_equal(data.held_out_labels, again.held_out_labels)
  np.savez(path, images=GREY, test_images=GREY[:4], labels=np.arange(NUM_TRAIN))
  assert load_npz(path).train_labels is None


def labelled(labels, test_labels=None):
  if test_labels is None:
    return {"train": GREY, "train_labels": labels}
  return labelled(labels) | {"test": GREY[: len(test_labels)], "test_labels": test_labels}


@pytest.mark.parametrize("spelling", ["validation", "val"])
def test_a_validation_split_is_read_and_stands_in_for_a_test_split(tmp_path, spelling):
  path, labels = str(tmp_path / "a.npz"), np.arange(20) % 5
  arrays = {"x_train": GREY[:10], "y_train": labels[:10]}
  validation = {f"x_{spelling}": GREY[10:13], f"y_{spelling}": labels[10:13]}
  np.savez(path, **arrays, **validation, x_test=GREY[13:], y_test=labels[13:])
  data = load_npz(path)
  np.testing.assert_array_equal(data.validation, GREY[10:13])
  np.testing.assert_array_equal(data.validation_labels, labels[10:13])
  np.testing.assert_array_equal(data.held_out, GREY[13:])
  np.testing.assert_array_equal(data.held_out_labels, labels[13:])
  np.savez(path, **arrays, **validation)
  data = load_npz(path)
  np.testing.assert_array_equal(data.train, GREY[:10])
  np.testing.assert_array_equal(data.held_out, GREY[10:13])
  assert data.validation is None and data.validation_labels is None


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"pixels": GREY}, "has the arrays pixels; expected train or images"),
    ({"train": GREY / 255}, r"train in .* is float64 \[20, 8, 6, 1\].*: give \(255 \* x\).round"),
    ({"train": GREY / 1.0}, r"values \d to \d+; expected integers from 0 to 255$"),
    ({"train": GREY[0, 0]}, r"is uint8 \[6, 1\]"),
    ({"train": GREY.astype(int) - GREY.min() - 1}, "values -1 to \\d+; expected .* from 0 to 255"),
    (
      {"train": GREY.astype(np.uint16) + 9},
      "uint16 .* values \\d+ to 2\\d+; expected .* from 0 to 255",
    ),
    ({"train": GREY > 9}, "is bool .*; expected integers"),
    ({"train": GREY[:0]}, r"is uint8 \[0, 8, 6, 1\]; expected"),
    ({"train": GREY, "test": GREY[:0]}, r"test in .* is uint8 \[0, 8, 6, 1\]; expected"),
    ({"train": GREY[:1]}, "has a single image; expected at least 2"),
    ({"train": COLOUR[0]}, r"is uint8 \[32, 32, 3\], a single image\?"),
    ({"train": COLOUR.transpose(0, 3, 1, 2)}, r"\[26, 3, 32, 32\]; .* \.transpose\(0, 2, 3, 1\)"),
    ({"train": GREY.transpose(0, 3, 1, 2)}, r"\[20, 1, 8, 6\]; .* \.transpose\(0, 2, 3, 1\)"),
    ({"train": GREY, "test": COLOUR}, r"\[32, 32, 3\] for test; expected \[8, 6, 1\]"),
    ({"train": np.array([None])}, "cannot read .*allow_pickle"),
    ({}, "has the arrays none; expected train or images"),
    (labelled(LABELS), "is int64 .*; expected 20 integers"),
    (labelled(np.eye(20, dtype=int)), "is int64 .*; expected 20 integers"),
    (labelled(np.arange(20.0)), "is float64 .*; expected 20 integers"),
    (labelled(np.arange(20) - 1), "has the label -1; expected none below 0"),
    (
      labelled(np.arange(20) + 1),
      "20 classes for train, with labels 1 to 20; expected 0 to 19: num",
    ),
    (
      labelled(np.arange(20) // 10 * 10**12),
      "2 classes .* labels 0 to 1000000000000; expected 0 to 1:",
    ),
    (labelled(np.arange(20) // 10, np.array([0, 2])), "has the label 2 for test; expected 0 to 1"),
  ],
)
def test_an_npz_file_that_will_not_do_is_one_clear_line(tmp_path, arrays, message):
  np.savez(tmp_path / "a.npz", **arrays)
  with pytest.raises(ImageError, match=message) as raised:
    load_npz(str(tmp_path / "a.npz"))
  assert "\n" not in str(raised.value)


def test_what_is_not_an_npz_file_is_one_clear_line(tmp_path):
  np.save(tmp_path / "a.npy", GREY)
  (tmp_path / "empty.npz").touch()
  (tmp_path / "text.npz").write_text("PK\3\4 and no more")
  np.savez_compressed(tmp_path / "cut.npz", train=GREY)
  whole = (tmp_path / "cut.npz").read_bytes()
  (tmp_path / "cut.npz").write_bytes(whole[:-30])
  (tmp_path / "folder.npz").mkdir()
  for name in ("a.npy", "empty.npz", "text.npz", "missing.npz", "cut.npz", "folder.npz"):
    for read in (load_npz, npz_shape):
      with pytest.raises(ImageError, match=f"cannot read .*{name}: \\S"):
        read(str(tmp_path / name))
  middle = len(whole) // 2
  (tmp_path / "cut.npz").write_bytes(whole[:middle] + b"XXXX" + whole[middle + 4 :])
  with pytest.raises(ImageError, match=r"cannot read .*cut.npz: \S"):
    load_npz(str(tmp_path / "cut.npz"))
  with pytest.raises(ImageError, match=r"dataset.path is ''; name an npz file"):
    load_npz("")


def test_the_shape_is_known_before_loading(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  np.savez(tmp_path / "a.npz", images=GREY[..., 0])
  assert npz_shape("~/a.npz") == load_npz("~/a.npz").shape == (8, 6, 1)
  np.savez(tmp_path / "flat.npz", train=GREY[0, 0])
  with pytest.raises(ImageError, match=r"is uint8 \[6, 1\]"):
    npz_shape(str(tmp_path / "flat.npz"))
