"""The film shows the states of each model, and masks as such."""

import io

import numpy as np
from PIL import Image

from dmmd_jax.data.alphabets import TEXT8
from dmmd_jax.report import film, pictures
from tests.report.example import evaluation, images


def frames(gif):
  """RGB `[moments, H, W, 3]`, and milliseconds of each."""
  image = Image.open(io.BytesIO(gif))
  assert image.format == "GIF" and image.info["loop"] == 0
  pixels, milliseconds = [], []
  for i in range(image.n_frames):
    image.seek(i)
    milliseconds.append(image.info["duration"])
    pixels.append(np.array(image.convert("RGB")))
  return np.stack(pixels), milliseconds


def share_of_masks(pixels):
  return (pixels == pictures.MASK).all(-1).mean((-2, -1))


def test_both_models_last_equally_long_and_end_without_masks():
  z = images(4)
  some = np.where(np.arange(16).reshape(4, 4, 1) < 8, 17, z)
  masks = np.full_like(z, 17)
  paths = {
    "teacher": np.stack([masks, masks, masks, some, z]),
    "student": np.stack([masks, some, z]),
  }
  pixels, milliseconds = frames(film.make(paths, 17))
  left, right = map(share_of_masks, np.split(pixels, 2, axis=2))
  assert len(pixels) == 5 and left[0] > 0.4
  np.testing.assert_allclose(left / left[0], [1, 1, 1, 0.5, 0])
  # The student has half as many steps: each of its states stays for two moments.
  np.testing.assert_allclose(right / right[0], [1, 1, 0.5, 0.5, 0])
  assert len(set(milliseconds[:-1])) == 1 and milliseconds[-1] > milliseconds[0]


def test_the_last_frame_shows_the_samples():
  z = images(4)
  path = np.stack([np.full_like(z, 17), z])
  last = frames(film.make({"teacher": path}, 17))[0][-1]
  scale = film._SIDE // 4
  expected = pictures.to_rgb(z[:1], 17)[0].repeat(scale, 0).repeat(scale, 1)
  top, left, size = film._MARGIN + film._HEAD, film._MARGIN, film._SIDE
  np.testing.assert_array_equal(last[top : top + size, left : left + size], expected)


def test_a_bar_is_full_at_the_end():
  pixels, _ = frames(film.make(evaluation().paths, 17))
  bright = (pixels[:, -film._MARGIN - 1] == film._INK).all(-1).sum(-1)
  assert bright[0] == 0 and bright[-1] == 2 * (2 * film._SIDE + 4)
  assert sorted(bright) == bright.tolist()


def test_large_images_become_smaller_and_sequences_are_columns():
  large = np.zeros((4, 300, 150, 3), np.uint8)
  assert film._draw_images(large, 256).size == (2 * 64 + 4, 2 * 128 + 4)
  assert film._draw_images(np.zeros((16, 2), int), 2).size == (128, 16)


def test_texts_are_drawn_below_each_other_with_their_masks():
  text = TEXT8.encode("the cat is here")[None].astype(int)
  masks = np.full_like(text, 27)
  some = np.where(np.arange(15) % 2, 27, text)
  paths = {"teacher": np.stack([masks, some, text]), "student": np.stack([masks, text])}
  pixels, _ = frames(film.make(paths, 27, TEXT8.decode))
  first, half, last = share_of_masks(pixels)
  assert first > half > last == 0
  # The teacher stands above the student, who keeps all masks until the end.
  above, below = np.split(pixels[1][: len(pixels[1]) // 2 * 2], 2)
  assert 0 < share_of_masks(above) < share_of_masks(below)


def test_lines_show_line_breaks_and_control_characters():
  assert film._lines("ab\ncd\x07e", 3) == ["ab↵", "cd�", "e"]


def test_long_texts_stay_legible():
  for length in (64, 100, 9000):
    path = np.zeros((2, 4, length), int)
    image = film._text_drawer({"a": path}, lambda row: "x" * len(row))(path[0])
    assert image.width < 500 and image.height < 2 * film._LINES * film._TEXT
