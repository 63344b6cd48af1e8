"""Text that needs no download: English prose that ships with Python, and the user's own files."""

import ast
import dataclasses
import functools
import hashlib
import inspect
import pathlib
import re
import sysconfig
from collections.abc import Iterable

import numpy as np

from dmmd_jax.data.alphabets import Alphabet, BytePairs, TextError
from dmmd_jax.data.files import expand, find_files
from dmmd_jax.data.pipeline import Dataset

_SPLITS = ("train", "validation", "test")
# A longer paragraph is cut, so that a file without any still has three splits.
_LONGEST = 2000
_NOT_PROSE = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "pydoc_data"}


def load_english(tokenizer: Alphabet | BytePairs, length: int, wrap: bool = False) -> Dataset:
  """The documentation of Python itself: about 1.3 million characters of English prose.

  From `pydoc_data.topics` and the docstrings of the standard library, so the same for everyone with
  the same Python version. Paragraphs of prose only, each once; split by paragraph, 8 : 1 : 1.
  """
  return make_dataset(_english_paragraphs(), tokenizer, length, "english", wrap)


def load_files(
  path: str, tokenizer: Alphabet | BytePairs, length: int, wrap: bool = False
) -> Dataset:
  """A text file, or all files of a folder and those below it; split by paragraph, 8 : 1 : 1.

  Raises `TextError` where there is no text, or not enough.
  """
  if not path:
    raise TextError("dataset.path is ''; name a text file or a folder")
  root = expand(path)
  paragraphs = []
  for file in text_files(root):
    paragraphs += re.split(r"\n\s*\n", read(file))
  return make_dataset(paragraphs, tokenizer, length, str(root), wrap)


def text_files(root: pathlib.Path) -> list[pathlib.Path]:
  """A file, or those of a folder and below that are not hidden. Raises `TextError` for none."""
  try:
    files = find_files(root)
  except OSError as error:
    raise TextError(
      f"cannot read {error.filename}: {error.strerror}; name a text file or a folder of them"
    ) from error
  if not files:
    raise TextError(f"{root} holds no files; put the texts there")
  return files


def make_dataset(
  paragraphs: Iterable[str],
  tokenizer: Alphabet | BytePairs,
  length: int,
  name: str,
  wrap: bool = False,
) -> Dataset:
  """Splits paragraphs by their hash and packs each split into sequences of `length` tokens.

  Training sequences begin at every token; those of the other splits do not overlap.
  """
  texts = {split: [] for split in _SPLITS}
  for paragraph in paragraphs:
    for piece in _pieces(paragraph.strip()):
      tenth = hashlib.sha256(piece.encode()).digest()[0] % 10
      texts["validation" if tenth == 8 else "test" if tenth == 9 else "train"].append(piece)
  streams = {}
  for split, pieces in texts.items():
    stream = streams[split] = tokenizer.encode(tokenizer.separator.join(pieces))
    digest = hashlib.sha256(stream.tobytes()).hexdigest()[:16]
    print(f"{name} {split}: {len(stream)} tokens, sha256 {digest}")
  return from_streams(streams, tokenizer, length, name, wrap)


def from_streams(
  streams: dict[str, np.ndarray],
  tokenizer: Alphabet | BytePairs,
  length: int,
  name: str,
  wrap: bool = False,
) -> Dataset:
  """A data set of the token streams `[n]` of train, validation and test.

  With `wrap` every sequence has `length - 2` of them between two separators.
  Raises `TextError` where a stream is too short for two sequences.
  """
  for split, stream in streams.items():
    if len(stream) < 2 * length:
      raise TextError(
        f"{name} is too short: its {split} split has {len(stream)} tokens; expected at least"
        f" {2 * length}, twice dataset.length"
      )

  inner = length - 2 if wrap else length

  def cut(stream):
    """In an order of its own: minibatches of neighbours would share their subject."""
    sequences = stream[: len(stream) // inner * inner].reshape(-1, inner)
    sequences = sequences[np.random.default_rng(0).permutation(len(sequences))]
    return np.pad(sequences, ((0, 0), (1, 1)), constant_values=ends) if wrap else sequences

  ends = int(tokenizer.encode(tokenizer.separator)[0]) if wrap else None
  train = np.lib.stride_tricks.sliding_window_view(streams["train"], inner)
  return Dataset(
    train=Wrapped(train, ends) if wrap else train,
    validation=cut(streams["validation"]),
    held_out=cut(streams["test"]),
    num_categories=tokenizer.num_categories,
    tokenizer=tokenizer,
  )


@dataclasses.dataclass(frozen=True)
class Wrapped:
  """Rows `[n, D]` with a token before and after each, `[n, D + 2]`, made when they are read."""

  rows: np.ndarray
  token: int

  @property
  def shape(self) -> tuple[int, int]:
    return len(self.rows), self.rows.shape[1] + 2

  def __len__(self) -> int:
    return len(self.rows)

  def __getitem__(self, index: int | np.ndarray | slice) -> np.ndarray:
    found = self.rows[index]
    ends = [(0, 0)] * (found.ndim - 1) + [(1, 1)]
    return np.pad(found, ends, constant_values=self.token)


@functools.cache
def _english_paragraphs() -> tuple[str, ...]:
  from pydoc_data.topics import topics

  found = {}  # in order, each once
  for text in [*topics.values(), *_docstrings()]:
    for paragraph in re.split(r"\n\s*\n", text):
      prose = " ".join(paragraph.split())
      letters = sum(c.isalpha() or c == " " for c in prose)
      is_prose = len(prose) >= 60 and letters >= 0.88 * len(prose) and ">>>" not in prose
      if is_prose and prose.isascii():
        found.setdefault(re.sub("[^a-z]", "", prose.lower()), prose)
  return tuple(found.values())


def _docstrings() -> Iterable[str]:
  """Docstrings of the standard library, read without importing it."""
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  for file in sorted(root.rglob("*.py")):
    if _NOT_PROSE & set(file.relative_to(root).parts):
      continue
    try:
      tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
      continue  # templates that are no Python
    for node in ast.walk(tree):
      if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node, clean=False)
        if docstring:
          yield inspect.cleandoc(docstring)


def _pieces(paragraph: str) -> Iterable[str]:
  """A paragraph, cut at spaces where it is very long."""
  while len(paragraph) > _LONGEST:
    cut = paragraph.rfind(" ", 0, _LONGEST)
    cut = cut if cut > 0 else _LONGEST
    yield paragraph[:cut]
    paragraph = paragraph[cut:].lstrip()
  if paragraph:
    yield paragraph


def read(file: pathlib.Path) -> str:
  """The text of a file in UTF-8. Raises `TextError` for anything else."""
  try:
    text = file.read_text(encoding="utf-8-sig")
  except UnicodeDecodeError:
    text = "\0"
  except OSError as error:
    raise TextError(f"cannot read {file}: {error.strerror}") from error
  if "\0" in text:
    raise TextError(f"{file} is not text in UTF-8; convert it, or take it out of the folder")
  return text
