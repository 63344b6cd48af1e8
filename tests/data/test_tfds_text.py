"""Corpora in the format of tensorflow-datasets on disk, and a byte-pair encoding, made here."""

import json
import shutil

import numpy as np
import pytest

from dmmd_jax.data import alphabets, tfds_text
from dmmd_jax.data.alphabets import TEXT8, TextError
from dmmd_jax.data.pipeline import Batches

TEXTS = [f"document {chr(97 + i % 26)} tells of thing {chr(97 + i // 26)}" for i in range(400)]


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  """Two corpora as the command prepares them: many documents, and one that is cut."""
  files = tmp_path_factory.mktemp("files")
  (files / "many").mkdir()
  (files / "many" / "a.jsonl").write_text("\n".join(json.dumps({"text": x}) for x in TEXTS[1:]))
  (files / "many" / "b.txt").write_text(TEXTS[0])
  (files / "whole.txt").write_text(" ".join(TEXTS))
  folder = tmp_path_factory.mktemp("tfds")
  for name, texts in (("one_split", "many"), ("with_splits", "whole.txt")):
    tfds_text.main([name, f"--texts={files / texts}", f"--data_dir={folder}"])
  return folder


@pytest.fixture(scope="module")
def gpt2_files(tmp_path_factory):
  from tokenizers import ByteLevelBPETokenizer

  folder = tmp_path_factory.mktemp("bpe")
  tokenizer = ByteLevelBPETokenizer()
  tokenizer.train_from_iterator(TEXTS, vocab_size=300, show_progress=False)
  tokenizer.save_model(str(folder))
  return folder


def test_texts_are_packed_and_cached_beside_the_corpus(corpora):
  data = tfds_text.load("with_splits", str(corpora), TEXT8, 32)
  joined, streams = " ".join(TEXTS), []
  for split in (data.train[::32], data.validation, data.held_out):
    streams.append(TEXT8.decode(np.asarray(split).reshape(-1)))
  assert joined.startswith(streams[0]) and len(streams[0]) > 0.88 * len(joined)
  # The order of the held-out sequences is their own; each is a part of the last tenth.
  for stream in streams[1:]:
    assert all(stream[i : i + 32] in joined[-len(joined) // 9 :] for i in range(0, len(stream), 32))
  files = {p.name for p in corpora.rglob("tokens/text8-*/*")}
  assert files == {"train.npy", "validation.npy", "test.npy"}
  before = {p: p.stat().st_mtime_ns for p in corpora.rglob("tokens/*/*.npy")}
  tfds_text.load("with_splits", str(corpora), TEXT8, 32)
  assert before == {p: p.stat().st_mtime_ns for p in corpora.rglob("tokens/*/*.npy")}


def test_batches_resume_at_any_place(corpora):
  data = tfds_text.load("with_splits", str(corpora), TEXT8, 32)
  batches = Batches(data, 4, seed=0)
  whole = [batch.tokens for batch, _ in zip(batches.read(0), range(6), strict=False)]
  resumed = batches.read(4)
  for tokens in whole[4:]:
    np.testing.assert_array_equal(tokens, next(resumed).tokens)
  assert whole[0].dtype == np.int32


def test_a_corpus_without_other_splits_lends_them_from_its_end(corpora, gpt2_files):
  tokenizer = alphabets.make_tokenizer("gpt2", "error", str(gpt2_files))
  data = tfds_text.load("one_split", str(corpora), tokenizer, 8)
  assert data.num_categories == tokenizer.num_categories
  documents = tokenizer.decode(np.asarray(data.train[::8]).reshape(-1)).split("<|endoftext|>")[:-1]
  assert 390 <= len(documents) <= 392 and set(documents) <= set(TEXTS)
  assert len(set(documents)) == len(documents)
  assert min(len(data.validation), len(data.held_out)) >= 2
  mask = tokenizer.num_categories
  assert tokenizer.decode(np.array([mask, *tokenizer.encode("thing"), mask])) == "·thing·"


@pytest.mark.parametrize(
  ("name", "command"),
  [
    ("lm1b", r"tfds.builder\('lm1b'.*download_and_prepare\(file_format='array_record'\)"),
    ("openwebtext", "python -m dmmd_jax.data.tfds_text openwebtext --texts="),
  ],
)
def test_a_missing_corpus_says_how_to_prepare_it(tmp_path, name, command):
  with pytest.raises(TextError, match=command):
    tfds_text.load(name, str(tmp_path), TEXT8, 32)


def test_what_cannot_be_prepared_is_one_clear_line(tmp_path, capsys):
  (tmp_path / "empty").mkdir()
  (tmp_path / "blank.txt").write_text("  \n")
  (tmp_path / "file").touch()
  good = b'\xef\xbb\xbf{"text": "a"}\n\n'
  bad = [
    b'{"words": 1}',
    b"[1",
    b'{"text": 1}',
    b'"text"',
    b'{"text": "\xff"}',
    b'{"text": "\\ud800"}',
  ]
  for i, line in enumerate(bad):
    (tmp_path / f"{i}.jsonl").write_bytes(good + line + b"\n")

  def refuses(message, texts, name="mine", data_dir="tfds"):
    with pytest.raises(SystemExit) as stopped:
      tfds_text.main([name, f"--texts={tmp_path}/{texts}", f"--data_dir={tmp_path}/{data_dir}"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and message in error, error
    assert not (tmp_path / "tfds").exists()

  for i in range(len(bad)):
    refuses(f"line 3 of {tmp_path}/{i}.jsonl is not", f"{i}.jsonl")
  refuses("nothing: no such file", "nothing")
  refuses("holds no files", "empty")
  refuses("holds no text", "blank.txt")
  (tmp_path / "blank.txt").write_text("text")
  for name in ("a/b", "../b", "", "Mine", "a b"):
    refuses("expected small letters, digits and _", "blank.txt", name)
  refuses("Not a directory", "blank.txt", data_dir="file/tfds")


def test_a_corpus_is_not_written_over(corpora, tmp_path, capsys):
  (tmp_path / "a.txt").write_text("other text")
  with pytest.raises(SystemExit) as stopped:
    tfds_text.main(["one_split", f"--texts={tmp_path}", f"--data_dir={corpora}"])
  assert stopped.value.code == 2 and "one_split is there already" in capsys.readouterr().err


def test_damaged_tokens_and_records_are_one_clear_line(corpora, tmp_path):
  shutil.copytree(corpora, tmp_path / "tfds", ignore=shutil.ignore_patterns("tokens"))
  tfds_text.load("with_splits", str(tmp_path / "tfds"), TEXT8, 32)
  (tokens,) = tmp_path.glob("tfds/with_splits/*/tokens/*/train.npy")
  whole = tokens.read_bytes()
  for content in (whole[:-20], whole[:20], b""):
    tokens.write_bytes(content)
    with pytest.raises(TextError, match=r"cannot read with_splits .*tokens in .* may be removed"):
      tfds_text.load("with_splits", str(tmp_path / "tfds"), TEXT8, 32)
  for info in tmp_path.glob("tfds/one_split/*/dataset_info.json"):
    info.write_text("{")
  with pytest.raises(TextError, match="cannot read one_split in "):
    tfds_text.load("one_split", str(tmp_path / "tfds"), TEXT8, 32)


def test_a_missing_or_broken_tokenizer_is_one_clear_line(tmp_path):
  with pytest.raises(TextError, match=r"dataset.tokenizer is ''; expected tokenizer.json"):
    alphabets.make_tokenizer("gpt2", "error", "")
  with pytest.raises(TextError, match=r"no tokenizer in .*vocab.json and merges.txt"):
    alphabets.make_tokenizer("gpt2", "error", str(tmp_path))
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(TextError, match="cannot read the tokenizer"):
    alphabets.make_tokenizer("gpt2", "error", str(tmp_path))
