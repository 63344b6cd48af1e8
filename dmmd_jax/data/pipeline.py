"""What a data set is to the rest of the code, and how batches come out of it."""

import dataclasses
import functools
import hashlib
import signal
from collections.abc import Iterator
from typing import NamedTuple

import grain
import numpy as np

# Labels on disk cost as much to read as their examples: of so many, no class of 1,000 is missing.
_LABELS_READ = 10_000
# Examples of a split that tell it from others.
_FINGERPRINTED = 1000


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Tokens of the splits, integers `[N, *shape]`, with values in `[0, num_categories)`.

  `train` and its labels may be anything with a length, a shape and an index. Where there is a third
  split, `validation`, it is to choose settings by. `labels` are class labels int `[N]`, or None.
  Examples may be stored in any order, such as class by class. The first `prompts` int `[N]` tokens
  of an example are given, or none where that is None. `joint` is the exact distribution of
  synthetic data (`toy.Mixture`), or None. `tokenizer` decodes text. `flip` says that an image and
  its mirror image are equally likely.
  """

  train: np.ndarray
  held_out: np.ndarray
  num_categories: int
  train_labels: np.ndarray | None = None
  held_out_labels: np.ndarray | None = None
  joint: object | None = None
  validation: np.ndarray | None = None
  validation_labels: np.ndarray | None = None
  tokenizer: object | None = None
  flip: bool = False
  train_prompts: np.ndarray | None = None
  held_out_prompts: np.ndarray | None = None
  validation_prompts: np.ndarray | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of one example: `(D,)`, or `(H, W, C)` for images."""
    return self.train.shape[1:]

  @property
  def num_classes(self) -> int:
    """How many labels there are; 0 without."""
    if self.train_labels is None:
      return 0
    some = self.train_labels
    if not isinstance(some, np.ndarray):
      some = random_rows(some, _LABELS_READ)
    splits = (some, self.held_out_labels, self.validation_labels)
    return max(int(np.max(labels)) for labels in splits if labels is not None) + 1

  @functools.cached_property
  def fingerprint(self) -> str:
    """Tells other data from these: a digest of the sizes of all splits and of a part of each."""
    total = hashlib.sha256(f"{self.shape} {self.num_categories} {self.flip}".encode())
    for name in ("train", "validation", "held_out"):
      of_split = [getattr(self, name), getattr(self, f"{name}_labels")]
      if self.train_prompts is not None:
        of_split.append(getattr(self, f"{name}_prompts"))
      for values in of_split:
        total.update(b"none" if values is None else f"{len(values)}".encode())
        if values is not None:
          total.update(random_rows(values, _FINGERPRINTED).astype("<i8").tobytes())
    return total.hexdigest()[:32]


def find_fault(data: Dataset) -> str:
  """What of a data set is not as `Dataset` says, in words; "" where all is.

  Splits in memory are looked at whole, of others as many examples as tell them from others.
  """
  for name in ("train", "validation", "held_out"):
    rows, labels = getattr(data, name), getattr(data, f"{name}_labels")
    if rows is None:
      continue
    some = rows if type(rows) is np.ndarray else random_rows(rows, _FINGERPRINTED)
    if some.shape[1:] != data.shape:
      return f"examples of {name} are {some.shape[1:]}, those of train {data.shape}"
    if not np.issubdtype(some.dtype, np.integer):
      return f"tokens of {name} are {some.dtype}; expected integers"
    if some.size and not 0 <= some.min() <= some.max() < data.num_categories:
      return (
        f"tokens of {name} are {some.min()} to {some.max()}; expected 0 to"
        f" {data.num_categories - 1}, as num_categories is {data.num_categories}"
      )
    if labels is not None and len(labels) != len(rows):
      return f"{name} has {len(rows)} examples and {len(labels)} labels"
  return ""


def random_rows(rows, num: int) -> np.ndarray:
  """`num` of `rows`, or all if there are fewer, in a random order: `[min(num, len(rows)), ...]`.

  The draw depends on both numbers alone, so examples and their labels keep together. `rows` may be
  anything with a length and an index; no others are read.
  """
  chosen = np.random.default_rng(0).choice(len(rows), min(num, len(rows)), replace=False)
  return rows[chosen] if isinstance(rows, np.ndarray) else np.stack([rows[int(i)] for i in chosen])


class Batch(NamedTuple):
  """Tokens int32 `[B, *shape]`, and their labels and lengths of prompts int32 `[B]`, if any."""

  tokens: np.ndarray
  labels: np.ndarray | None = None
  prompts: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
  """Endless shuffled batches of `size` examples of the training split.

  Batch `i` depends on `seed` and `i` alone, so that a resumed run sees the data that it would have
  seen, on any number of processes. Every epoch has an order of its own. `workers` processes read
  and decode; with 0 a thread does.
  """

  dataset: Dataset
  size: int
  seed: int
  workers: int = 0

  def read(self, start: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
    """Batches from number `start` on; of each only `rows`, those that this process is to place."""
    rows = np.arange(self.size) if rows is None else rows
    examples = grain.MapDataset.source(_Examples(self, rows)).batch(len(rows))
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
    batches = examples[start:].to_iter_dataset(options)
    if self.workers:
      options = grain.MultiprocessingOptions(num_workers=self.workers)
      batches = batches.mp_prefetch(options, worker_init_fn=_leave_ctrl_c_to_the_run)
    return iter(batches)


def _leave_ctrl_c_to_the_run(*_) -> None:
  """A terminal sends Ctrl-C to workers, too, whose batches the run needs until it has saved."""
  signal.signal(signal.SIGINT, signal.SIG_IGN)


class _Examples:
  """The rows of one process, batch after batch, as a random-access source."""

  def __init__(self, batches: Batches, rows: np.ndarray):
    data = batches.dataset
    self._tokens, self._flip = data.train, data.flip
    self._labels, self._prompts = data.train_labels, data.train_prompts
    self._size, self._seed, self._rows = batches.size, batches.seed, rows
    indices = grain.MapDataset.range(len(data.train))
    self._order = indices.seed(batches.seed).shuffle().repeat()

  def __len__(self) -> int:
    return len(self._order) // self._size * len(self._rows)

  def __getitem__(self, i: int) -> Batch:
    batch, row = divmod(i, len(self._rows))
    place = batch * self._size + int(self._rows[row])
    index = self._order[place]
    tokens = np.asarray(self._tokens[index]).astype(np.int32)
    if self._flip and np.random.default_rng((self._seed, place)).random() < 0.5:
      tokens = tokens[:, ::-1]
    beside = (None if x is None else np.int32(x[index]) for x in (self._labels, self._prompts))
    return Batch(tokens, *beside)
