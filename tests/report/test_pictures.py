"""Pixels of tokens."""

import io

import numpy as np
import pytest
from PIL import Image

from dmmd_jax.report import pictures


def test_levels_are_grey_and_masks_are_not():
  tokens = np.array([0, 8, 16, 17]).reshape(1, 2, 2, 1)
  pixels = pictures.to_rgb(tokens, 17)
  assert pixels.dtype == np.uint8 and pixels.shape == (1, 2, 2, 3)
  assert pixels.reshape(4, 3)[:3].tolist() == [[0] * 3, [128] * 3, [255] * 3]
  assert tuple(pixels[0, 1, 1]) == pictures.MASK and len(set(pictures.MASK)) == 3


def test_colours_are_kept_and_a_pixel_with_a_masked_channel_is_masked():
  tokens = np.array([[1, 2, 3], [256, 2, 3], [255, 255, 255]]).reshape(1, 1, 3, 3)
  pixels = pictures.to_rgb(tokens, 256)[0, 0].tolist()
  assert pixels == [[1, 2, 3], list(pictures.MASK), [255, 255, 255]]
  # Saved tokens are uint8, which 256 is not.
  saved = tokens[:, :, ::2].astype(np.uint8)
  assert pictures.to_rgb(saved, 256)[0, 0].tolist() == pixels[::2]


@pytest.mark.parametrize(
  ("pixel", "expected"),
  [([10, 20, 30, 255], [10, 20, 30]), ([10, 20, 30, 0], [255] * 3), ([100, 200], [150] * 3)],
)
def test_opacity_is_drawn_on_white_and_other_channels_are_averaged(pixel, expected):
  assert pictures.to_rgb(np.array(pixel)[None, None, None], 256)[0, 0, 0].tolist() == expected


def test_images_are_tiled_row_by_row():
  images = np.arange(5)[:, None, None, None] + np.ones((5, 2, 3, 1))
  tiled = pictures.tile(images, rows=2, columns=3)
  assert tiled.shape == (2 * 3, 3 * 4, 1)
  corners = tiled[::3, ::4, 0]
  np.testing.assert_array_equal(corners, [[1, 2, 3], [4, 5, 0]])
  assert (tiled[2::3] == 0).all() and (tiled[:, 3::4] == 0).all()


def test_a_grid_has_transparent_gaps_and_no_rows_that_are_empty():
  image = pictures.grid(np.full((5, 2, 3, 1), 4), 5, rows=4, columns=3)
  assert image.shape == (2 * 3, 3 * 4, 4)
  opaque = image[..., 3] == 255
  assert opaque[:2, :3].all() and not opaque[2].any() and not opaque[:, 3].any()
  assert not opaque[3:, 8:].any() and (image[opaque] == 255).all()
  assert pictures.grid(np.zeros((2, 2, 3, 1), int), 5, 4, 3).shape == (3, 2 * 4, 4)


def test_a_grid_of_large_images_has_few():
  assert pictures.grid(np.zeros((6, 400, 400, 1), np.uint8), 256, 2, 3).shape == (401, 3 * 401, 4)


def test_sequences_are_columns():
  image = pictures.grid(np.array([[0, 1, 2], [2, 2, 2]]), 3, rows=2, columns=1)
  np.testing.assert_array_equal(image[..., 0], [[0, 255], [128, 255], [255, 255]])


def test_a_png_is_the_image():
  image = pictures.grid(np.arange(32).reshape(2, 4, 4, 1) % 5, 5, 1, 2)
  np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(pictures.png(image)))), image)
