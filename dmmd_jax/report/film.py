"""A film of samples as they are drawn: the models beside each other, from noise to the tokens."""

import functools
import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dmmd_jax.report import pictures

# Examples of each kind that are filmed.
IMAGES, SEQUENCES, TEXTS = 4, 16, 4

# From noise to the tokens, of the last frame, and the least and most of any other.
_SECONDS, _LAST_SECONDS, _SECONDS_PER_FRAME = 5.0, 2.0, (0.05, 0.8)

# A GIF has no dark mode: this looks well on light and dark paper.
_PAPER, _INK, _FAINT = (24, 26, 32), (232, 233, 236), (74, 78, 90)

# Pixels: around panels, of letters, from a title to its picture, of the bar, of an image's side.
_MARGIN, _TITLE, _TEXT, _HEAD, _BAR, _SIDE = 16, 17, 18, 29, 4, 128
# Characters of a line, which stay legible on a phone, and lines of a model.
_COLUMNS, _LINES = 40, 12

# What a tokenizer makes of a mask.
_MASK = "·"

# Of states [n, ...].
Draw = Callable[[np.ndarray], Image.Image]


def make(
  paths: dict[str, np.ndarray],
  num_categories: int,
  decode: Callable[[np.ndarray], str] | None = None,
) -> bytes:
  """A GIF of the states `[moments, n, ...]` of each model, by its title.

  All paths last equally long, so of a path with fewer states each stays for longer. Texts, which
  `decode` makes of tokens `[D]`, stand below each other, all else side by side.
  """
  draw = _text_drawer(paths, decode) if decode else lambda z: _draw_images(z, num_categories)
  last = max(len(path) for path in paths.values()) - 1
  frames = []
  for moment in range(last + 1):
    panels = []
    for title, path in paths.items():
      at = moment * (len(path) - 1) // last
      panels.append(_panel(title, draw(path[at]), at / (len(path) - 1)))
    frames.append(_join(panels, stacked=decode is not None))
  shortest, longest = _SECONDS_PER_FRAME
  seconds = min(max(_SECONDS / last, shortest), longest)
  milliseconds = [int(1000 * seconds)] * last + [int(1000 * _LAST_SECONDS)]
  return _gif(frames, milliseconds)


def _gif(frames: list[Image.Image], milliseconds: list[int]) -> bytes:
  file = io.BytesIO()
  first, *others = frames
  first.save(
    file, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0, optimize=False
  )
  return file.getvalue()


def _panel(title: str, picture: Image.Image, done: float) -> Image.Image:
  """A picture below its title and a bar that is full when it is `done`, from 0 to 1."""
  font = _font("DejaVuSans.ttf", _TITLE)
  width = max(picture.width, math.ceil(font.getlength(title)))
  panel = Image.new("RGB", (width, _HEAD + picture.height + 8 + _BAR), _PAPER)
  panel.paste(picture, (0, _HEAD))
  draw = ImageDraw.Draw(panel)
  draw.text((0, 0), title, _INK, font)
  bar = panel.height - _BAR
  draw.rectangle((0, bar, picture.width - 1, panel.height - 1), _FAINT)
  if done:
    draw.rectangle((0, bar, round(done * (picture.width - 1)), panel.height - 1), _INK)
  return panel


def _join(panels: list[Image.Image], stacked: bool) -> Image.Image:
  across, along = [p.width for p in panels], [p.height for p in panels]
  sizes = (max(across), sum(along)) if stacked else (sum(across), max(along))
  gaps = _MARGIN * (len(panels) + 1)
  width, height = (2 * _MARGIN, gaps) if stacked else (gaps, 2 * _MARGIN)
  frame = Image.new("RGB", (sizes[0] + width, sizes[1] + height), _PAPER)
  x = y = _MARGIN
  for panel in panels:
    frame.paste(panel, (x, y))
    if stacked:
      y += panel.height + _MARGIN
    else:
      x += panel.width + _MARGIN
  return frame


def _draw_images(z: np.ndarray, num_categories: int) -> Image.Image:
  """Images of `[n, H, W, C]` in a square, or sequences `[n, D]` as the columns of one."""
  if z.ndim == 2:
    return _scaled(pictures.to_rgb(z.T[None, ..., None], num_categories)[0])
  shown = [_scaled(image) for image in pictures.to_rgb(z, num_categories)]
  columns = math.ceil(math.sqrt(len(shown)))
  width, height, gap = shown[0].width, shown[0].height, 4
  rows = -(-len(shown) // columns)
  sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), _PAPER)
  for i, image in enumerate(shown):
    sheet.paste(image, (i % columns * (width + gap), i // columns * (height + gap)))
  return sheet


def _scaled(pixels: np.ndarray) -> Image.Image:
  """An image of about `_SIDE` pixels; each pixel of a small one becomes a square."""
  image = Image.fromarray(pixels)
  longest = max(image.size)
  if longest <= _SIDE:
    times = _SIDE // longest
    return image.resize((times * image.width, times * image.height), Image.Resampling.NEAREST)
  smaller = (max(1, round(_SIDE * side / longest)) for side in image.size)
  return image.resize(tuple(smaller), Image.Resampling.BOX)


def _text_drawer(paths: dict[str, np.ndarray], decode: Callable[[np.ndarray], str]) -> Draw:
  """Draws texts as lines, in one size for all states, so that a character keeps its place."""
  font = _font("DejaVuSansMono.ttf", _TEXT)
  longest = max(len(decode(row)) for path in paths.values() for z in path for row in z)
  lines = -(-longest // _COLUMNS)
  columns = -(-longest // lines)  # lines of the same length
  num_texts = max(1, _LINES // lines)
  lines = min(lines, _LINES)
  step, width = math.ceil(1.35 * _TEXT), math.ceil(columns * font.getlength("m"))
  gap = step // 2

  def draw(z):
    texts = [decode(row) for row in z[:num_texts]]
    height = len(texts) * (lines * step + gap) - gap
    page = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(page)
    for i, text in enumerate(texts):
      for j, line in enumerate(_lines(text, columns)):
        at = (0, i * (lines * step + gap) + j * step)
        known = "".join(" " if c == _MASK else c for c in line)
        masks = "".join(c if c == _MASK else " " for c in line)
        pen.text(at, known, _INK, font)
        pen.text(at, masks, pictures.MASK, font)
    return page

  return draw


def _lines(text: str, columns: int) -> list[str]:
  """A text in lines of `columns` characters; what would move them or has no picture is shown."""
  text = "".join(c if c.isprintable() else "↵" if c == "\n" else "�" for c in text)
  return [text[i : i + columns] for i in range(0, len(text), columns)]


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
  """A font that ships with matplotlib."""
  import matplotlib

  return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)
