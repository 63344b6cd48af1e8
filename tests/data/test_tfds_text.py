"""Corpora in the format of tensorflow-datasets on disk, and a byte-pair encoding, made here."""

import numpy as np
import pytest

from dmmd_jax.data import alphabets, tfds_text
from dmmd_jax.data.alphabets import TEXT8, TextError
from dmmd_jax.data.pipeline import batches

TEXTS = [f"document {chr(97 + i % 26)} tells of thing {chr(97 + i // 26)}" for i in range(400)]


def write_corpus(folder, name, splits):
  """A prepared data set, written by tensorflow-datasets itself."""
  import tensorflow as tf
  import tensorflow_datasets as tfds

  features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version="1.0.0",
    features=features,
    split_datasets={
      split: tf.data.Dataset.from_tensor_slices({"text": texts}) for split, texts in splits.items()
    },
    data_dir=str(folder),
    file_format="array_record",
    description="made by a test",
  )


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  write_corpus(
    folder, "with_splits", {"train": TEXTS, "validation": TEXTS[:9], "test": TEXTS[9:20]}
  )
  write_corpus(folder, "one_split", {"train": TEXTS})
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
  whole = TEXT8.decode(np.asarray(data.train[::32]).reshape(-1))
  # tensorflow-datasets has shuffled them; the last ones do not fill a sequence.
  documents = ["document" + x.rstrip() for x in whole.split("document")[1:-1]]
  assert len(documents) >= 398 and set(documents) <= set(TEXTS)
  assert len(set(documents)) == len(documents)
  files = {p.name for p in corpora.rglob("tokens/text8-*/*")}
  assert files == {"train.npy", "validation.npy", "test.npy"}
  before = {p: p.stat().st_mtime_ns for p in corpora.rglob("tokens/*/*.npy")}
  tfds_text.load("with_splits", str(corpora), TEXT8, 32)
  assert before == {p: p.stat().st_mtime_ns for p in corpora.rglob("tokens/*/*.npy")}


def test_batches_resume_at_any_place(corpora):
  data = tfds_text.load("with_splits", str(corpora), TEXT8, 32)
  whole = [next(it) for it in [batches(data.train, 4, 0, 0)] for _ in range(6)]
  resumed = batches(data.train, 4, 0, 4)
  np.testing.assert_array_equal(np.stack(whole[4:]), np.stack([next(resumed), next(resumed)]))
  assert whole[0].dtype == np.int32


def test_a_corpus_without_other_splits_lends_them_from_its_end(corpora, gpt2_files):
  tokenizer = alphabets.make_tokenizer("gpt2", "error", str(gpt2_files))
  data = tfds_text.load("one_split", str(corpora), tokenizer, 8)
  assert data.num_categories == tokenizer.num_categories
  splits = [np.asarray(data.train[::8]), data.validation, data.held_out]
  documents = [tokenizer.decode(x.reshape(-1)).split("<|endoftext|>")[:-1] for x in splits]
  assert [len(x) for x in documents[1:]] == [3, 3] and len(documents[0]) >= 390
  found = [x for split in documents for x in split]
  assert set(found) <= set(TEXTS) and len(set(found)) == len(found)
  mask = tokenizer.num_categories
  assert tokenizer.decode(np.array([mask, *tokenizer.encode("thing"), mask])) == "·thing·"


def test_a_missing_corpus_says_how_to_prepare_it(tmp_path):
  for name in ("text8", "openwebtext"):
    with pytest.raises(TextError, match=rf"tfds.builder\('{name}'.*download_and_prepare"):
      tfds_text.load(name, str(tmp_path), TEXT8, 32)


def test_a_missing_or_broken_tokenizer_is_one_clear_line(tmp_path):
  with pytest.raises(TextError, match=r"no tokenizer in .*vocab.json and merges.txt"):
    alphabets.make_tokenizer("gpt2", "error", str(tmp_path))
  (tmp_path / "tokenizer.json").write_text("{}")
  with pytest.raises(TextError, match="cannot read the tokenizer"):
    alphabets.make_tokenizer("gpt2", "error", str(tmp_path))
