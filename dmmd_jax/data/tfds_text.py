"""Text corpora through tensorflow-datasets: any with a `text` feature, in random-access files.

A corpus is tokenized once, into flat files of tokens beside it, and read from there by memory map:
any sequence at any time, whatever the size of the corpus. tensorflow-datasets downloads lm1b
itself; what it does not know, such as text8 or OpenWebText, is prepared from files at hand:

    python -m dmmd_jax.data.tfds_text openwebtext --texts=FOLDER [--data_dir=...]
"""

import functools
import json
import os
import pathlib

import numpy as np

from dmmd_jax import command
from dmmd_jax.data import text
from dmmd_jax.data.alphabets import Alphabet, BytePairs, TextError, fingerprint
from dmmd_jax.data.pipeline import Dataset

# Where a corpus lacks one of these splits, the end of its training split stands in.
_CUT = {"train": "train[:98%]", "validation": "train[98%:99%]", "test": "train[99%:]"}
_DOWNLOADABLE = ("lm1b",)
_ENCODED_AT_ONCE = 1000
_WHOLE_DOCUMENT_SPLITS = {"train": 0.90, "validation": 0.95, "test": 1.0}


def load(name: str, data_dir: str, tokenizer: Alphabet | BytePairs, length: int) -> Dataset:
  """The corpus `name` below `data_dir` ("" is where tfds puts it), packed to `length` tokens.

  Raises `TextError` where it has not been prepared, or cannot be read.
  """
  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(name, data_dir=_folder(data_dir))
  except tfds.core.registered.DatasetNotFoundError as error:
    raise _missing(name, data_dir) from error
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
  except (NotImplementedError, OSError) as error:
    raise TextError(
      f"cannot read {name} in {builder.data_dir}: {error}; it needs random-access files"
      " (array_record) and a folder that can be written to"
    ) from error
  return text.from_streams(streams, tokenizer, length, name)


def prepare(name: str, texts: str, data_dir: str) -> None:
  """Writes files of text as the corpus `name`, in the format of tensorflow-datasets.

  Every file below `texts` is a document, and so is the `text` of every line of a `.jsonl` file. A
  single document, such as text8, is cut into 90, 5 and 5 % for training, validation and test.
  """
  import tensorflow as tf
  import tensorflow_datasets as tfds

  root = pathlib.Path(texts).expanduser()
  files = text.text_files(root)
  for file in files:
    if file.suffix == ".jsonl":
      _check_lines(file)
  if len(files) == 1 and files[0].suffix != ".jsonl":
    whole, start, splits = text.read(files[0]), 0, {}
    for split, end in _WHOLE_DOCUMENT_SPLITS.items():
      splits[split] = [whole[start : int(end * len(whole))]]
      start = int(end * len(whole))
  else:
    splits = {"train": files}

  def documents(parts):
    for part in parts:
      if isinstance(part, str):
        yield {"text": part}
      elif part.suffix == ".jsonl":
        with part.open(encoding="utf-8") as lines:
          yield from ({"text": json.loads(line)["text"]} for line in lines)
      else:
        yield {"text": text.read(part)}

  signature = {"text": tf.TensorSpec((), tf.string)}
  tfds.dataset_builders.store_as_tfds_dataset(
    name=name,
    version="1.0.0",
    features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
    split_datasets={
      split: tf.data.Dataset.from_generator(
        functools.partial(documents, parts), output_signature=signature
      )
      for split, parts in splits.items()
    },
    data_dir=_folder(data_dir) or os.path.expanduser("~/tensorflow_datasets"),
    file_format="array_record",
    description=f"Prepared from {root}.",
  )


def _check_lines(file: pathlib.Path) -> None:
  """Looks at the first line: an error inside of tensorflow's pipeline would tell little."""
  with file.open(encoding="utf-8") as lines:
    first = lines.readline()
  if not isinstance(json.loads(first).get("text"), str):
    raise TextError(f'{file} has no "text" in its first line; expected {{"text": "..."}} in each')


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
    np.save(whole, flat)
    whole.rename(path)
  finally:
    raw.unlink(missing_ok=True)
    whole.unlink(missing_ok=True)


def _missing(name: str, data_dir: str) -> TextError:
  where = f", data_dir={data_dir!r}" if data_dir else ""
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
  parser = command.Parser(
    prog="python -m dmmd_jax.data.tfds_text", description="Prepares a corpus of text files."
  )
  parser.add_argument("name", help="of the corpus, such as openwebtext")
  parser.add_argument("--texts", required=True, help="a file or folder: .txt, or .jsonl with text")
  parser.add_argument("--data_dir", default="", help="default: that of tensorflow-datasets")
  args = parser.parse_args(argv)
  try:
    prepare(args.name, args.texts, args.data_dir)
  except (TextError, KeyError, ValueError, OSError) as error:
    parser.error(str(error))


if __name__ == "__main__":
  main()
