"""Between text and tokens: two alphabets of characters, and byte-pair encodings from files."""

import dataclasses
import hashlib
import pathlib
import re
import unicodedata

import numpy as np

from dmmd_jax.data.files import expand


class TextError(Exception):
  """Text, or a tokenizer, that cannot be used; the message says what was found and what to do."""


_EXPECTED = (
  "expected tokenizer.json, or vocab.json and merges.txt (GPT-2:"
  " huggingface.co/openai-community/gpt2); name their folder in dataset.tokenizer"
)
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclasses.dataclass(frozen=True)
class Alphabet:
  """One token per character of `characters`; `text8` text is normalised first.

  With `unknown="drop"` other characters are left out, with `"error"` they raise `TextError`.
  """

  name: str
  characters: str
  unknown: str = "error"

  @property
  def num_categories(self) -> int:
    return len(self.characters)

  @property
  def separator(self) -> str:
    """What stands between two texts that follow each other."""
    return " " if self.name == "text8" else "\n\n"

  def encode(self, text: str) -> np.ndarray:
    """Tokens uint16 `[n]` of a text."""
    text = _fold(text)
    if self.name == "text8":
      text = _text8(text)
    unknown = sorted(set(text) - set(self.characters))
    if unknown and self.unknown == "error":
      shown = " ".join(f"'{c}'" if c.isprintable() else f"U+{ord(c):04X}" for c in unknown[:8])
      raise TextError(
        f"{len(unknown)} characters are not in the alphabet {self.name!r}, such as {shown}; leave"
        " them out with --config.dataset.unknown=drop, or choose another dataset.alphabet"
      )
    table = np.full(0x110000, -1, np.int32)
    table[[ord(c) for c in self.characters]] = np.arange(len(self.characters))
    tokens = table[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)]
    return tokens[tokens >= 0].astype(np.uint16)

  def encode_all(self, texts: list[str]) -> list[np.ndarray]:
    return [self.encode(text) for text in texts]

  def decode(self, tokens: np.ndarray) -> str:
    """The text of tokens `[n]`; a token that is not in the alphabet, such as a mask, is `·`."""
    return "".join(self.characters[i] if i < len(self.characters) else "·" for i in tokens)


TEXT8 = Alphabet("text8", " abcdefghijklmnopqrstuvwxyz")
PRINTABLE = Alphabet("printable", "\n" + "".join(map(chr, range(32, 127))))


@dataclasses.dataclass(frozen=True)
class BytePairs:
  """A byte-pair encoding read with the `tokenizers` package; texts end with `<|endoftext|>`."""

  path: str
  name: str = "gpt2"
  separator: str = "<|endoftext|>"

  @property
  def num_categories(self) -> int:
    return self._tokenizer.get_vocab_size()

  @property
  def _tokenizer(self):
    return _load_tokenizer(self.path)

  def encode(self, text: str) -> np.ndarray:
    """Tokens `[n]` of a text, uint16 where the vocabulary allows."""
    return self.encode_all([text])[0]

  def encode_all(self, texts: list[str]) -> list[np.ndarray]:
    """Tokens of many texts, on all cores."""
    dtype = np.uint16 if self.num_categories <= 1 << 16 else np.uint32
    encoded = self._tokenizer.encode_batch(texts, add_special_tokens=False)
    return [np.array(one.ids, dtype) for one in encoded]

  def decode(self, tokens: np.ndarray) -> str:
    """The text of tokens `[n]`; a token outside the vocabulary, such as a mask, is `·`."""
    known = self.num_categories
    parts, run = [], []
    for token in [*map(int, tokens), known]:
      if token < known:
        run.append(token)
      else:
        parts += [self._tokenizer.decode(run, skip_special_tokens=False), "·"]
        run = []
    return "".join(parts[:-1])


def make_tokenizer(alphabet: str, unknown: str, tokenizer_path: str) -> Alphabet | BytePairs:
  """The tokenizer named in a config: `text8`, `printable`, or `gpt2` and `file`, of a folder."""
  if alphabet in ("gpt2", "file"):
    if not tokenizer_path:
      raise TextError(f"dataset.tokenizer is ''; {_EXPECTED}")
    tokenizer = BytePairs(str(expand(tokenizer_path)), alphabet)
    _ = tokenizer.num_categories  # a missing file is an error now
    return tokenizer
  return dataclasses.replace({"text8": TEXT8, "printable": PRINTABLE}[alphabet], unknown=unknown)


def fingerprint(tokenizer: Alphabet | BytePairs) -> str:
  """A short hash of what a tokenizer does, for the names of cached files."""
  if isinstance(tokenizer, BytePairs):
    contents = _load_tokenizer(tokenizer.path).to_str()
  else:
    contents = repr(tokenizer)
  return f"{tokenizer.name}-{hashlib.sha256(contents.encode()).hexdigest()[:12]}"


_TOKENIZERS: dict = {}


def _load_tokenizer(path: str):
  """`tokenizer.json`, or `vocab.json` and `merges.txt`, of a folder or beside a file."""
  if path not in _TOKENIZERS:
    try:
      from tokenizers import AddedToken, ByteLevelBPETokenizer, Tokenizer
    except ModuleNotFoundError as error:
      raise TextError("GPT-2's byte pairs need: pip install 'dmmd_jax[gpt2]'") from error

    folder = pathlib.Path(path)
    whole = folder / "tokenizer.json" if folder.is_dir() else folder
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    try:
      if whole.is_file():
        tokenizer = Tokenizer.from_file(str(whole))
      elif vocab.is_file() and merges.is_file():
        tokenizer = ByteLevelBPETokenizer(str(vocab), str(merges))._tokenizer
        tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
      else:
        raise TextError(f"no tokenizer in {path}; {_EXPECTED}")
    except TextError:
      raise
    except Exception as error:  # the package raises bare Exception for broken files
      raise TextError(f"cannot read the tokenizer in {path}: {error}; {_EXPECTED}") from error
    _TOKENIZERS[path] = tokenizer
  return _TOKENIZERS[path]


def _fold(text: str) -> str:
  """Without accents, and with typewriter quotes and dashes."""
  text = text.replace("\r\n", "\n").replace("\t", " ")
  text = text.translate({0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-"})
  text = text.translate({0x2014: "--", 0x2026: "...", 0xA0: " "})
  decomposed = unicodedata.normalize("NFKD", text)
  return "".join(c for c in decomposed if not unicodedata.combining(c))


def _text8(text: str) -> str:
  """As text8: lower case, digits spelt out, all that is not a letter a single space.

  Letters of other scripts stay, to be reported as unknown.
  """
  text = re.sub(r"\d", lambda m: f" {_DIGITS[int(m.group())]} ", text.lower())
  return re.sub(r"[\W_]+", " ", text)
