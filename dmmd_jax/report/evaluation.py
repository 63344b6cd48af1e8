"""What an evaluation has found, as it is handed to the report."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Cell(NamedTuple):
  """Samples `[n, ...]` that a model drew in so many steps, and evaluations of each token."""

  model: str
  steps: int
  nfe: int
  tokens: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
  """All that the files of an evaluation are made from.

  `title` names the run. `results` are what `results.json` holds: `rows`, `seconds`, `reference`,
  the names of the splits, `bits_per_token` by name, the `config` and the `inputs`, and `made_by`.
  `samples` are tokens `[n, ...]` by model and steps, `real` as many of the data that they were
  measured on, `digests` those of the models' parameters. `paths` are states `[moments, n, ...]` of
  films by title. `decode` makes a text of tokens `[D]`, where they are one.
  """

  title: str
  results: dict[str, Any]
  samples: dict[str, dict[int, np.ndarray]]
  digests: dict[str, str]
  real: np.ndarray
  paths: dict[str, np.ndarray]
  num_categories: int
  decode: Callable[[np.ndarray], str] | None = None

  @property
  def cells(self) -> Iterator[Cell]:
    for timed in self.results["seconds"]:
      model, steps = timed["model"], timed["steps"]
      yield Cell(model, steps, timed["nfe"], self.samples[model][steps])
