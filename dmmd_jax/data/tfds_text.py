"""Text corpora through tensorflow-datasets: any with a `text` feature, in random-access files.

A corpus is tokenized once, into flat files of tokens beside it, and read from there by memory map:
any sequence at any time, whatever the size of the corpus. tensorflow-datasets downloads lm1b
itself; what it does not know, such as text8 or OpenWebText, is prepared from files at hand:

    python -m dmmd_jax.data.tfds_text openwebtext --texts=FOLDER [--data_dir=...]
"""

import functools
import json
import logging
import os
import pathlib
import re
import sys
from collections.abc import Iterator

import numpy as np

from dmmd_jax import cli
from dmmd_jax.data import text
from dmmd_jax.data.alphabets import Alphabet, BytePairs, TextError, fingerprint
from dmmd_jax.data.files import expand
from dmmd_jax.data.pipeline import Dataset

# Where a corpus lacks one of these splits, the end of its training split stands in.
_CUT = {"train": "train[:98%]", "validation": "train[98%:99%]", "test": "train[99%:]"}
_DOWNLOADABLE = ("lm1b",)
_ENCODED_AT_ONCE = 1000
_VERSION = "1.0.0"  # of what is prepared here
_WHOLE_DOCUMENT_SPLITS = {"train": 0.90, "validation": 0.95, "test": 1.0}


def load(
  name: str, data_dir: str, tokenizer: Alphabet | BytePairs, length: int, wrap: bool = False
) -> Dataset:
  """The corpus `name` below `data_dir` ("" is where tfds puts it), packed to `length` tokens.

  Raises `TextError` where it has not been prepared, or cannot be read.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=_folder(data_dir))
  except tfds.core.registered.DatasetNotFoundError as error:
    raise _missing(name, data_dir) from error
  except Exception as error:  # broken files raise nearly anything
    raise TextError(
      f"cannot read {name} in {data_dir or '~/tensorflow_datasets'}: {error}; move it away and"
      " prepare it again"
    ) from error
  if "train" not in builder.info.splits:
    raise _missing(name, data_dir)
  own = set(builder.info.splits)
  lends_nothing = {"validation", "test"} <= own
  folder = pathlib.Path(builder.data_dir) / "tokens" / fingerprint(tokenizer)
  streams = {}
  try:
    for split, cut in _CUT.items():
      path = folder / f"{split}.npy"
      if not path.exists():
        is_own = split in own if split != "train" else lends_nothing
        _tokenize(builder.as_data_source(split if is_own else cut), tokenizer, path)
      streams[split] = np.load(path, mmap_mode="r")
  except TextError:
    raise
  except Exception as error:  # broken files raise nearly anything
    raise TextError(
      f"cannot read {name} in {builder.data_dir}: {error}; it needs whole files with random access"
      f" (array_record) and a folder that can be written to; tokens in {folder} may be removed"
    ) from error
  return text.from_streams(streams, tokenizer, length, name, wrap)


def prepare(name: str, texts: str, data_dir: str) -> None:
  """Writes files of text as the corpus `name`, in the format of tensorflow-datasets.

  Every file below `texts` is a document, and so is the `text` of every line of a `.jsonl` file. A
  single document, such as text8, is cut into 90, 5 and 5 % for training, validation and test. All
  is read once before anything is written. Raises `TextError` for files that are no such texts, and
  where there is such a corpus already.
  """
  if not re.fullmatch("[a-z][a-z0-9_]*", name):
    raise TextError(f"the name is {name!r}; expected small letters, digits and _, such as my_texts")
  root = expand(texts)
  files = text.text_files(root)
  if not sum(1 for file in files for document in _documents(file) if document.strip()):
    raise TextError(f"{root} holds no text; put some there")
  if len(files) == 1 and files[0].suffix != ".jsonl":
    whole, start, splits = text.read(files[0]), 0, {}
    for split, end in _WHOLE_DOCUMENT_SPLITS.items():
      splits[split] = [whole[start : int(end * len(whole))]]
      start = int(end * len(whole))
  else:
    splits = {"train": files}

  folder = expand(data_dir or "~/tensorflow_datasets")
  if (folder / name / _VERSION).exists():
    raise TextError(f"{folder / name} is there already; remove it, or choose another name")
  folder.mkdir(parents=True, exist_ok=True)  # where it cannot be, before tensorflow is imported
  import tensorflow as tf
  import tensorflow_datasets as tfds

  if not sys.stderr.isatty():
    tfds.disable_progress_bar()

  def documents(parts):
    for part in parts:
      yield from ({"text": x} for x in ([part] if isinstance(part, str) else _documents(part)))

  signature = {"text": tf.TensorSpec((), tf.string)}
  datasets = {
    split: tf.data.Dataset.from_generator(
      functools.partial(documents, parts), output_signature=signature
    )
    for split, parts in splits.items()
  }
  try:
    tfds.dataset_builders.store_as_tfds_dataset(
      name=name,
      version=_VERSION,
      features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
      split_datasets=datasets,
      data_dir=folder,
      file_format="array_record",
      description=f"Prepared from {root}.",
    )
  except Exception as error:  # a full disk, a folder that cannot be written: tfds raises anything
    raise TextError(f"cannot write {name} to {folder}: {error}") from error


def _documents(file: pathlib.Path) -> Iterator[str]:
  """The texts of a file. Raises `TextError`, with the line, for one that has others."""
  if file.suffix != ".jsonl":
    yield text.read(file)
    return
  with file.open("rb") as lines:
    for number, line in enumerate(lines, 1):
      if not line.strip():
        continue
      try:
        document = json.loads(line.decode("utf-8-sig"))
        document = document["text"].encode("utf-8").decode()
      except Exception as error:  # no JSON, no UTF-8, no object, no "text", half a surrogate pair
        raise TextError(
          f'line {number} of {file} is not {{"text": "..."}} in UTF-8: {error}; mend it, or take it'
          " out"
        ) from error
      yield document


def _folder(data_dir: str) -> str | None:
  return os.path.expanduser(data_dir) or None


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
        for tokens in tokenizer.encode_all([x + tokenizer.separator for x in texts]):
          out.write(tokens.astype(dtype).tobytes())
    flat = np.memmap(raw, dtype, mode="r") if raw.stat().st_size else np.zeros(0, dtype)
    with whole.open("wb") as out:
      np.save(out, flat)
      out.flush()
      os.fsync(out.fileno())  # a name without its contents would be taken for all of it
    whole.rename(path)
  finally:
    raw.unlink(missing_ok=True)
    whole.unlink(missing_ok=True)


def _missing(name: str, data_dir: str) -> TextError:
  where = f", data_dir={os.path.expanduser(data_dir)!r}" if data_dir else ""
  if name in _DOWNLOADABLE:
    recipe = (
      f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}{where})'
      ".download_and_prepare(file_format='array_record')\""
    )
  else:
    option = f" --data_dir={data_dir}" if data_dir else ""
    recipe = f"python -m dmmd_jax.data.tfds_text {name} --texts=FOLDER_OF_ITS_FILES{option}"
  folder = data_dir or "~/tensorflow_datasets"
  return TextError(f"the data set {name} is not in {folder}; prepare it: {recipe}")


def main(argv: list[str] | None = None) -> None:
  parser = cli.Parser("dmmd_jax.data.tfds_text", "Prepares a corpus of text files.")
  parser.add_argument("name", help="of the corpus, such as openwebtext")
  parser.add_argument("--texts", required=True, help="a file or folder: .txt, or .jsonl with text")
  parser.add_argument("--data_dir", default="", help="default: that of tensorflow-datasets")
  args = parser.parse_args(argv)
  cli.hide_logs_of_libraries()
  logging.getLogger("absl").setLevel(logging.ERROR)  # tfds misses what it is about to write
  try:
    prepare(args.name, args.texts, args.data_dir)
  except (TextError, OSError) as error:
    parser.error(str(error))


if __name__ == "__main__":
  cli.run(main)
