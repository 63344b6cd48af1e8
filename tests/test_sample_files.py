"""Files of samples hold the samples."""

import numpy as np
import pytest
from etils import epath
from PIL import Image

from dmmd_jax import sample_files


def some(tokens, num_categories=17, kind="images", **about):
  return sample_files.Samples(kind, np.asarray(tokens), num_categories, about)


def decode(tokens):
  return "".join(chr(97 + token) for token in tokens)


def test_arrays_are_the_tokens_and_what_drew_them(tmp_path):
  tokens, labels = np.arange(24).reshape(4, 3, 2, 1) % 17, np.arange(4, dtype=np.int32)
  samples = some(tokens, labels=labels, model="student", nfe=8)
  sample_files.save(epath.Path(tmp_path / "x.npz"), samples, decode)
  found = dict(np.load(tmp_path / "x.npz"))
  np.testing.assert_array_equal(found.pop("tokens"), tokens)
  np.testing.assert_array_equal(found.pop("labels"), labels)
  assert found == {"model": "student", "nfe": 8}


@pytest.mark.parametrize(("num", "dtype"), [(256, "uint8"), (257, "uint16"), (50257, "uint16")])
def test_arrays_are_small_and_hold_the_last_category(tmp_path, num, dtype):
  sample_files.save(epath.Path(tmp_path / "x.npz"), some([[0, num - 1]], num), decode)
  tokens = np.load(tmp_path / "x.npz")["tokens"]
  assert tokens.dtype == dtype and tokens.tolist() == [[0, num - 1]]


def test_a_grid_has_every_image_and_all_of_its_pixels(tmp_path):
  tokens = np.random.default_rng(0).integers(17, size=(5, 8, 8, 1))
  sample_files.save(epath.Path(tmp_path / "x.PNG"), some(tokens), decode)
  whole = np.asarray(Image.open(tmp_path / "x.PNG"))
  assert whole.shape == (2 * 9 * 8, 3 * 9 * 8, 4)  # 2 x 3 images and gaps, eight times, opacity
  grid = whole[..., 0]
  for i, image in enumerate(tokens):
    row, column = divmod(i, 3)
    pixels = grid[row * 72 : row * 72 + 64 : 8, column * 72 : column * 72 + 64 : 8]
    np.testing.assert_array_equal(np.round(pixels / 255 * 16), image[..., 0])
  assert (grid.reshape(18, 8, 27, 8) == grid[::8, None, ::8, None]).all()
  gaps = np.zeros((2, 9, 3, 9), bool)
  gaps[:, 8], gaps[..., 8], gaps[1, :, 2] = True, True, True  # and where no image is left
  assert ((whole[::8, ::8, 3] == 0) == gaps.reshape(18, 27)).all()


def test_large_images_are_not_enlarged_and_keep_their_colours(tmp_path):
  tokens = np.broadcast_to([10, 200, 255], (1, 100, 70, 3))
  sample_files.save(epath.Path(tmp_path / "x.png"), some(tokens, 256), decode)
  grid = np.asarray(Image.open(tmp_path / "x.png"))
  assert grid.shape == (101, 71, 4) and (grid[:100, :70] == [10, 200, 255, 255]).all()


def test_texts_are_kept_apart_by_lines_that_count_them_and_sequences_are_lines(tmp_path):
  path, tokens = epath.Path(tmp_path / "x.txt"), [[0, 1], [2, 3], [4, 5]]
  sample_files.save(path, some(tokens, kind="texts"), decode)
  assert path.read_text() == "─── 1 of 3 ───\nab\n─── 2 of 3 ───\ncd\n─── 3 of 3 ───\nef\n"
  sample_files.save(path, some(tokens[:1], kind="texts"), decode)
  assert path.read_text() == "ab\n"
  sample_files.save(path, some(tokens, kind="sequences"), decode)
  assert path.read_text() == "ab\ncd\nef\n"
