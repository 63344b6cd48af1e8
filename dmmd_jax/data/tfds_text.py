"""Text corpora through tensorflow-datasets: text8, lm1b, openwebtext, or any with a `text` feature.

A corpus is tokenized once, into flat files of tokens beside it, and read from there by memory map:
any sequence at any time, whatever the size of the corpus.
"""

import os
import pathlib

import numpy as np

from dmmd_jax.data import text
from dmmd_jax.data.alphabets import Alphabet, BytePairs, TextError, fingerprint
from dmmd_jax.data.pipeline import Dataset

# Where a corpus has no such split of its own, the end of its training split.
_CUT = {"train": "train[:98%]", "validation": "train[98%:99%]", "test": "train[99%:]"}
_ENCODED_AT_ONCE = 1000


def load(name: str, data_dir: str, tokenizer: Alphabet | BytePairs, length: int) -> Dataset:
  """The corpus `name` below `data_dir` ("" is where tfds puts it), packed to `length` tokens.

  Raises `TextError` where it has not been prepared.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=os.path.expanduser(data_dir) or None)
    available = set(builder.info.splits)
  except Exception as error:
    raise _missing(name, data_dir) from error
  if "train" not in available:
    raise _missing(name, data_dir)
  own = {"validation", "test"} <= available
  folder = pathlib.Path(builder.data_dir) / "tokens" / fingerprint(tokenizer)
  streams = {}
  for split, cut in _CUT.items():
    path = folder / f"{split}.npy"
    if not path.exists():
      source = builder.as_data_source(split if own else cut)
      _tokenize(source, tokenizer, path)
    streams[split] = np.load(path, mmap_mode="r")
  return text.from_streams(streams, tokenizer, length, name)


def _tokenize(source, tokenizer: Alphabet | BytePairs, path: pathlib.Path) -> None:
  """Writes the tokens of all texts of a split, in order, to a .npy file; all of it or nothing."""
  path.parent.mkdir(parents=True, exist_ok=True)
  raw, whole = (path.with_suffix(f".{os.getpid()}.{kind}") for kind in ("raw", "npy"))
  print(f"tokenizing {len(source)} texts into {path}")
  dtype = np.uint16 if tokenizer.num_categories <= 1 << 16 else np.uint32
  try:
    with raw.open("wb") as out:
      for start in range(0, len(source), _ENCODED_AT_ONCE):
        indices = range(start, min(start + _ENCODED_AT_ONCE, len(source)))
        texts = [example["text"].decode("utf-8") for example in source.__getitems__(list(indices))]
        for tokens in map(tokenizer.encode, [x + tokenizer.separator for x in texts]):
          out.write(tokens.astype(dtype).tobytes())
    flat = np.memmap(raw, dtype, mode="r") if raw.stat().st_size else np.zeros(0, dtype)
    np.save(whole, flat)
    whole.rename(path)
  finally:
    raw.unlink(missing_ok=True)
    whole.unlink(missing_ok=True)


def _missing(name: str, data_dir: str) -> TextError:
  where = f", data_dir={data_dir!r}" if data_dir else ""
  command = (
    f"import tensorflow_datasets as tfds; tfds.builder({name!r}{where})"
    ".download_and_prepare(file_format='array_record')"
  )
  folder = data_dir or "~/tensorflow_datasets"
  return TextError(f'the data set {name} is not in {folder}; prepare it: python -c "{command}"')
