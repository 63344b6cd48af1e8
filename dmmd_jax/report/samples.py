"""Files with samples, for other programs and for people.

`samples_<model>_<nfe>.npz` is named by NFE, the columns of the tables. These differ from the steps
under guidance by labels and in blocks, and grow with them: a file has one model and one number of
steps.
"""

import io

import numpy as np
from etils import epath

from dmmd_jax.report import figures
from dmmd_jax.report.evaluation import Evaluation

# As many as the kernel MMD compares with, and enough for every metric but a published FID.
MAX_EXAMPLES = 10_000
# Of a file before it is compressed: a run leaves one for every cell of its tables.
MAX_BYTES = 100_000_000

_TEXTS = 8


def kept(tokens: np.ndarray, num_categories: int) -> np.ndarray:
  """The first of tokens `[n, ...]`, as many as are saved, in the smallest unsigned dtype."""
  dtype = _dtype(num_categories)
  example_bytes = int(np.prod(tokens.shape[1:])) * dtype.itemsize
  return tokens[: min(MAX_EXAMPLES, max(1, MAX_BYTES // example_bytes))].astype(dtype)


def npz(tokens: np.ndarray, num_categories: int, **about) -> bytes:
  """A compressed .npz with `tokens` `[n, ...]` and what they are `about`, numbers and words.

  `cli.load_array` reads the tokens.
  """
  file = io.BytesIO()  # a bucket cannot seek, as zip files do
  np.savez_compressed(file, tokens=tokens.astype(_dtype(num_categories)), **about)
  return file.getvalue()


def _dtype(num_categories: int) -> np.dtype:
  return np.min_scalar_type(num_categories - 1)


def save_all(directory: epath.Path, evaluation: Evaluation) -> None:
  """`samples_<model>_<nfe>.npz`, and `samples_real.npz` of the split measured on.

  Each says what made it: `model`, `steps`, `nfe`, `seed` and the `digest` of the parameters, of the
  data its `split` and the `digest`.
  """
  results, num_categories = evaluation.results, evaluation.num_categories
  seed, data = results["config"]["seed"], results["inputs"]["data"]["fingerprint"]
  for model, steps, nfe, tokens in evaluation.cells:
    made = {"model": model, "steps": steps, "nfe": nfe, "digest": evaluation.digests[model]}
    contents = npz(tokens, num_categories, seed=seed, **made)
    (directory / f"samples_{model}_{nfe}.npz").write_bytes(contents)
  contents = npz(evaluation.real, num_categories, model="real", split=results["split"], digest=data)
  (directory / "samples_real.npz").write_bytes(contents)


def save_texts(directory: epath.Path, evaluation: Evaluation) -> None:
  """`samples.md`: the first texts of every model, by its steps."""
  parts = ["# Samples: the first of each run, not selected"]
  for cell in evaluation.cells:
    texts = (evaluation.decode(row).replace("```", 3 * '"') for row in cell.tokens[:_TEXTS])
    parts += [f"## {cell.model}, {cell.steps} steps", "```\n" + "\n---\n".join(texts) + "\n```"]
  (directory / "samples.md").write_text("\n\n".join(parts) + "\n")


def save_images(directory: epath.Path, evaluation: Evaluation) -> None:
  """`samples_<model>.png`: a strip of images by steps; sequences `[n, D]` are drawn as columns."""
  for model, by_steps in evaluation.samples.items():
    path = directory / f"samples_{model}.png"
    figures.save_samples(path, model, by_steps, evaluation.num_categories)
