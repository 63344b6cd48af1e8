"""What a data set is to the rest of the code, and how batches come out of it."""

import dataclasses
from collections.abc import Iterator

import grain
import numpy as np


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Tokens of the splits, integers `[N, *shape]`, with values in `[0, num_categories)`.

  `train` may be anything with a length and an index. Where there is a third split, `validation`, it
  is to choose settings by. `labels` are class labels int `[N]`, or None. `joint` is the exact
  distribution of synthetic data (`toy.Mixture`), or None. `tokenizer` decodes text.
  """

  train: np.ndarray
  held_out: np.ndarray
  num_categories: int
  train_labels: np.ndarray | None = None
  held_out_labels: np.ndarray | None = None
  joint: object | None = None
  validation: np.ndarray | None = None
  tokenizer: object | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    """Shape of one example: `(D,)`, or `(H, W, C)` for images."""
    return self.train.shape[1:]


def batches(source: np.ndarray, batch_size: int, seed: int, start: int) -> Iterator[np.ndarray]:
  """Endless shuffled batches `[batch_size, *shape]` from batch number `start` on.

  Batch `i` depends on `seed` and `i` alone, so that a resumed run sees the data that it would have
  seen. Every epoch has an order of its own.
  """
  dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
  dataset = dataset.map(lambda x: x.astype(np.int32)).batch(batch_size)
  options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
  return iter(dataset[start:].to_iter_dataset(options))
