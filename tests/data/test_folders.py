"""Folders of PNG files, good ones and others."""

import os
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from dmmd_jax.data.folders import folder_shape, load_folder
from dmmd_jax.data.image_source import ImageError

NUM_TRAIN, NUM_TEST = 20, 6
RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (NUM_TRAIN + NUM_TEST, 32, 32, 3), np.uint8)
GREY = RNG.integers(0, 256, (NUM_TRAIN, 8, 6, 1), np.uint8)
LABELS = RNG.permutation(np.arange(NUM_TRAIN + NUM_TEST) % 10)


def write_pngs(folder: pathlib.Path, pixels: np.ndarray, names: list[str]) -> None:
  for image, name in zip(pixels, names, strict=True):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.squeeze()).save(folder / name)


def test_a_folder_with_classes_holds_out_a_tenth(tmp_path):
  names = [f"{'ab'[i % 2]}/deep/{i:02}.PNG" for i in range(NUM_TRAIN)]
  write_pngs(tmp_path, GREY, names)
  data = load_folder(str(tmp_path))
  assert data.train.shape == (18, 8, 6, 1) and data.held_out.shape == (2, 8, 6, 1)
  kept = pickle.loads(pickle.dumps(data.train))[:]
  where = {image.tobytes(): i for i, image in enumerate(GREY)}
  order = [where[image.tobytes()] for image in (*kept, *data.held_out)]
  assert sorted(order) == list(range(NUM_TRAIN))
  np.testing.assert_array_equal([*data.train_labels, *data.held_out_labels], np.array(order) % 2)


def test_a_folder_of_colour_with_splits(tmp_path):
  names = [f"{'train' if i < NUM_TRAIN else 'test'}/{i:02}.png" for i in range(len(COLOUR))]
  write_pngs(tmp_path, COLOUR, names)
  data = load_folder(str(tmp_path))
  np.testing.assert_array_equal(data.train[:], COLOUR[:NUM_TRAIN])
  np.testing.assert_array_equal(data.held_out, COLOUR[NUM_TRAIN:])
  assert data.train_labels is None and data.held_out_labels is None
  # Classes lie below the splits; other folders beside them are left alone.
  write_pngs(tmp_path, GREY[:1], ["other/0.png"])
  for name, label in zip(names, LABELS, strict=True):
    split, file = name.split("/")
    (tmp_path / split / str(label)).mkdir(exist_ok=True)
    (tmp_path / name).rename(tmp_path / split / str(label) / file)
  data = load_folder(str(tmp_path))
  assert data.held_out.shape == (NUM_TEST, 32, 32, 3)
  assert sorted(data.train_labels) == sorted(LABELS[:NUM_TRAIN])
  assert sorted(data.held_out_labels) == sorted(LABELS[NUM_TRAIN:])


def test_a_folder_that_will_not_do_is_one_clear_line(tmp_path):
  def refuses(message):
    with pytest.raises(ImageError, match=message):
      load_folder(str(tmp_path))

  refuses("no PNG files below")
  write_pngs(tmp_path, GREY[:1], ["0.png"])
  refuses("has a single image; expected at least 2")
  write_pngs(tmp_path, GREY, [f"{i}.png" for i in range(NUM_TRAIN)])
  Image.fromarray(GREY[0, :, :, 0].T).save(tmp_path / "7.png")
  refuses(r"7.png is L of 8x6 pixels; expected L of 6x8 pixels")
  Image.fromarray(GREY[0, :, :, 0]).convert("P").save(tmp_path / "7.png")
  refuses(r"7.png is P of 6x8 pixels; expected L of 6x8 pixels")
  Image.fromarray(GREY[0, :, :, 0].astype(np.uint16)).save(tmp_path / "7.png")
  refuses(r"7.png is I;16 of 6x8 pixels; expected L of 6x8 pixels")
  (tmp_path / "7.png").write_bytes(b"nothing")
  refuses("cannot read .*7.png")
  for split in ("train", "test"):
    (tmp_path / split).mkdir()
  refuses("PNG files: 0 in train, 0 in test; expected some in each")


def colours(folder: pathlib.Path, *names: str) -> None:
  """Images whose number is their colour."""
  write_pngs(folder, np.arange(len(names), dtype=np.uint8)[:, None, None].repeat(4, 1), names)


@pytest.mark.parametrize("spelling", ["validation", "val"])
def test_a_validation_split_is_read_and_stands_in_for_a_test_split(tmp_path, spelling):
  colours(tmp_path, "train/a/0.png", "train/b/1.png", f"{spelling}/b/2.png", "test/a/3.png")
  data = load_folder(str(tmp_path))
  assert data.train[:].ravel()[::4].tolist() == [0, 1]
  assert (data.validation == 2).all() and data.validation_labels.tolist() == [1]
  assert (data.held_out == 3).all() and data.held_out_labels.tolist() == [0]
  os.rename(tmp_path / "test", tmp_path / "other")
  data = load_folder(str(tmp_path))
  assert (data.held_out == 2).all() and data.held_out_labels.tolist() == [1]
  assert data.validation is None and data.validation_labels is None
  os.rename(tmp_path / spelling, tmp_path / "train" / "b" / "more")
  os.rename(tmp_path / "other", tmp_path / "train" / "c")
  data = load_folder(str(tmp_path))  # train alone: its classes are below it
  assert len(data.train) == 3 and data.num_classes == 3


def test_a_damaged_file_is_named_whichever_it_is(tmp_path):
  names = [f"{i:03}.png" for i in range(256)]
  colours(tmp_path, *names)
  for place in (3, 254):
    file = tmp_path / names[place]
    whole = file.read_bytes()
    for content in (
      whole[: len(whole) // 2 + 4],
      whole[:45] + b"????" + whole[49:],
      b"GIF89a",
      b"",
    ):
      file.write_bytes(content)
      with pytest.raises(ImageError, match=f"cannot read .*{names[place]}: .*repair it or take it"):
        load_folder(str(tmp_path))
    file.write_bytes(whole)
  assert len(load_folder(str(tmp_path)).train) == 231


def test_what_is_no_image_is_passed_over_and_what_cannot_be_read_is_not(tmp_path, capsys):
  def refuses(message):
    with pytest.raises(ImageError, match=message):
      load_folder(str(tmp_path))

  (tmp_path / "a.jpg").write_bytes(b"no matter")
  refuses("no PNG files below .*; expected images of one size there, as PNG: convert a.jpg")
  # A folder may be called like an image; hidden files are those of editors and systems.
  colours(tmp_path, "x.png/0.PNG", "x.png/1.png")
  for hidden in (".DS_Store", "._a.png", ".cache/1.png"):
    (tmp_path / hidden).parent.mkdir(exist_ok=True)
    (tmp_path / hidden).write_bytes(b"Mac OS X")
  data = load_folder(str(tmp_path))
  assert len(data.train) == len(data.held_out) == 1
  assert "1 files such as a.jpg are ignored; only PNG is read" in capsys.readouterr().out
  (tmp_path / "2.png").symlink_to("nowhere")
  refuses("cannot read .*2.png: a link to nothing")
  (tmp_path / "2.png").unlink()
  os.mkfifo(tmp_path / "2.png")
  refuses("cannot read .*2.png: neither a file nor a folder")
  (tmp_path / "2.png").unlink()
  (tmp_path / "back").symlink_to(tmp_path)
  refuses("cannot read .*back: a link to a folder that it lies in")


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path, monkeypatch):
  colours(tmp_path, "a/0.png", "b/1.png")
  scan = os.scandir

  def guarded(folder):
    if str(folder).endswith("b"):
      raise PermissionError(13, "Permission denied", folder)
    return scan(folder)

  monkeypatch.setattr(os, "scandir", guarded)
  with pytest.raises(ImageError, match=r"cannot read .*b: Permission denied"):
    load_folder(str(tmp_path))


def test_splits_that_make_no_sense_are_errors(tmp_path):
  def refuses(path, message):
    with pytest.raises(ImageError, match=message):
      load_folder(str(path))

  colours(tmp_path, "train/a/0.png", "train/b/1.png", "test/c/2.png")
  refuses(tmp_path, "the class c has images in test, and none in train")
  os.rename(tmp_path / "train", tmp_path / "val")
  refuses(tmp_path, "has val and test, and no train")
  refuses("", "dataset.path is ''; name a folder")
  refuses(tmp_path / "nowhere", "cannot read .*nowhere: no such file or folder")
  refuses(tmp_path / "test" / "c" / "2.png", "is a file; expected a folder")


def test_the_shape_is_known_before_loading(tmp_path, monkeypatch):
  write_pngs(tmp_path, GREY[:1], ["0.png"])
  monkeypatch.setenv("HOME", str(tmp_path))
  assert folder_shape("~") == (8, 6, 1)
