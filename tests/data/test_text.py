import numpy as np
import pytest

from dmmd_jax.data import alphabets, text
from dmmd_jax.data.alphabets import PRINTABLE, TEXT8, TextError

PROSE = "\n\n".join(
  f"Paragraph {i} says that {i} is a number of {i % 7} kinds." for i in range(400)
)


def test_text8_is_letters_and_single_spaces():
  tokens = TEXT8.encode("Café, 42 Tests:\n\n  it's “fine”.")
  assert TEXT8.decode(tokens) == "cafe four two tests it s fine "
  assert TEXT8.num_categories == 27


def test_printable_keeps_lines_and_round_trips():
  prose = 'Two lines,\nand ~"quotes"~ {0}.'
  assert PRINTABLE.decode(PRINTABLE.encode(prose)) == prose
  assert PRINTABLE.num_categories == 96
  assert PRINTABLE.decode(np.array([96, 40])) == "·" + PRINTABLE.characters[40]


@pytest.mark.parametrize("alphabet", ["text8", "printable"])
def test_unknown_characters_are_named_or_dropped(alphabet):
  with pytest.raises(TextError, match=r"not in the alphabet.*'п'.*dataset.unknown=drop"):
    alphabets.make_tokenizer(alphabet, "error", "").encode("so привет")
  kept = alphabets.make_tokenizer(alphabet, "drop", "")
  assert kept.decode(kept.encode("so привет")).strip() == "so"


def test_english_is_prose_in_disjoint_splits_and_the_same_every_time():
  data = text.load_english(TEXT8, 64)
  assert len(data.train) > 500_000 and len(data.held_out) > 1000 and len(data.validation) > 1000
  assert data.train.shape[1:] == (64,) and data.num_categories == 27
  again = text.load_english(TEXT8, 64)
  np.testing.assert_array_equal(data.held_out, again.held_out)
  train = TEXT8.decode(np.asarray(data.train[::64]).reshape(-1))
  assert " the " in train
  # Long passages of the test split do not occur in the training split.
  found = [TEXT8.decode(row) in train for row in data.held_out[:300]]
  assert np.mean(found) < 0.05  # Sentences come again in documentation.


def test_files_of_a_folder_are_read_in_order_and_split_by_paragraph(tmp_path):
  (tmp_path / "sub").mkdir()
  (tmp_path / "a.txt").write_text(PROSE)
  (tmp_path / "sub" / "b.md").write_text("One very long line without any paragraph. " * 500)
  (tmp_path / ".git").mkdir()
  (tmp_path / ".git" / "index").write_bytes(b"\xff\xfe")
  data = text.load_files(str(tmp_path), PRINTABLE, 16)
  one = text.load_files(str(tmp_path / "a.txt"), PRINTABLE, 16)
  assert len(data.train) > len(one.train) > 8000
  assert PRINTABLE.decode(one.train[0]).startswith("Paragraph")
  windows = np.stack([data.train[0], data.train[1]])
  np.testing.assert_array_equal(windows[0, 1:], windows[1, :-1])


@pytest.mark.parametrize(
  ("content", "message"),
  [
    (None, "holds no files"),
    (b"\x80\x81\x00", "is not text in UTF-8"),
    (b"a\x00b", "is not text in UTF-8"),
    (b"Too short.", "is too short: its .* split has .* tokens"),
    ("п".encode() * 5000, "characters are not in the alphabet"),
  ],
)
def test_folders_without_usable_text_are_one_clear_line(tmp_path, content, message):
  if content is not None:
    (tmp_path / "file.txt").write_bytes(content)
  with pytest.raises(TextError, match=message) as error:
    text.load_files(str(tmp_path), PRINTABLE, 16)
  assert "\n" not in str(error.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, monkeypatch, encoding):
  monkeypatch.setenv("HOME", str(tmp_path))
  (tmp_path / "file.txt").write_text(PROSE, encoding=encoding)
  data = text.load_files("~/file.txt", PRINTABLE, 16)
  assert PRINTABLE.decode(data.train[0]).startswith("Paragraph")


def test_files_that_cannot_be_read_are_named(tmp_path):
  (tmp_path / "a.txt").write_text(PROSE)
  (tmp_path / "b.txt").symlink_to("nowhere")
  with pytest.raises(TextError, match=r"cannot read .*b.txt: a link to nothing"):
    text.load_files(str(tmp_path), PRINTABLE, 16)


def test_unknown_characters_are_shown_as_they_look():
  with pytest.raises(TextError, match=r"2 characters .*, such as U\+0000 'п';"):
    PRINTABLE.encode("п\0")


def test_a_path_that_does_not_exist_is_an_error(tmp_path):
  for path in ("", str(tmp_path / "nothing")):
    with pytest.raises(TextError, match="name a text file or a folder"):
      text.load_files(path, PRINTABLE, 16)


def test_wrapped_sequences_begin_and_end_with_the_separator():
  """In every split, and of the stream nothing is lost between them."""

  class Tokenizer:
    separator, num_categories = "|", 100

    def encode(self, text):
      return np.array([99])

  streams = {s: np.arange(90, dtype=np.uint16) for s in ("train", "validation", "test")}
  data = text.from_streams(streams, Tokenizer(), 8, "made", wrap=True)
  assert data.train.shape == (85, 8) and len(data.train) == 85 and data.held_out.shape == (15, 8)
  np.testing.assert_array_equal(data.train[3], [99, 3, 4, 5, 6, 7, 8, 99])
  np.testing.assert_array_equal(data.train[np.array([3, 4])][:, 1], [3, 4])
  assert (data.held_out[:, [0, -1]] == 99).all()
  np.testing.assert_array_equal(np.sort(data.held_out[:, 1:-1].reshape(-1)), np.arange(90))
  assert data.fingerprint != text.from_streams(streams, Tokenizer(), 8, "made").fingerprint
