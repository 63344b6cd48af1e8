"""Whether samples are copies of training data: images and text.

    python -m benchmarks.copies --nfe=1,2 teacher=runs/digits_dmmd \
        dmmd_kernel=runs/methods/dmmd_kernel/048e4d788bdf/0

Images: the Euclidean distance, in grey levels, from a sample to the nearest of some training images
and to the nearest of as many of `--split`, mean over samples, and the least to any training image.
Text: of all runs of 8 and of 16 tokens in samples, the share that is found in some training text,
and in as much of `--split`. Samples that have learned the distribution are no nearer to training
data than to others. Data that are in neither, and samples of the teacher, stand beside them. A
`teacher` is the teacher of its workdir, any other name a student. Prints a table, and writes
`results.json` for `benchmarks.tables`.
"""

import argparse
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterator

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from benchmarks import students, tables
from dmmd_jax import cli, drawing, records
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.phases import build
from dmmd_jax.versions import made_by

RUNS = (8, 16)
# Of a split, and the split that is in neither it nor the training data.
_OTHER = {"validation": "held_out", "held_out": "validation"}
_SEED = 0
# Images at a time: of 32 x 32 x 3 some 100 MB in float64.
_CHUNK = 4096


def distances(x: np.ndarray, images: np.ndarray) -> np.ndarray:
  """Euclidean distances `[n]` from `x` `[n, ...]` to the nearest of `images` `[m, ...]`."""
  x, least = np.reshape(x, (len(x), -1)).astype(np.float64), np.full(len(x), np.inf)
  for start in range(0, len(images), _CHUNK):
    some = np.reshape(images[start : start + _CHUNK], (-1, x.shape[1])).astype(np.float64)
    squares = (x**2).sum(1)[:, None] + (some**2).sum(1) - 2 * x @ some.T
    least = np.minimum(least, squares.min(1))
  return np.sqrt(np.maximum(least, 0.0))


def found_in(x: np.ndarray, texts: np.ndarray, length: int) -> np.ndarray:
  """Which share of the runs of so many tokens of each text `x` `[n, D]` is in `texts` `[m, D]`."""
  known = {run.tobytes() for run in _runs(texts, length).reshape(-1, length)}
  return np.array([[run.tobytes() in known for run in runs] for runs in _runs(x, length)]).mean(1)


def _runs(texts: np.ndarray, length: int) -> np.ndarray:
  """All runs `[n, D - length + 1, length]` of texts `[n, D]`."""
  return np.lib.stride_tricks.sliding_window_view(texts.astype(np.int32), length, axis=1)


def measure(x: np.ndarray, dataset: Dataset, split: str) -> Iterator[tuple[str, float, float]]:
  """Metric, value and standard error of samples `x` `[n, ...]`, or of other data."""
  other = getattr(dataset, split)
  size = min(len(dataset.train), len(other))
  some = np.random.default_rng(_SEED).choice(len(dataset.train), size, replace=False)
  train = np.stack([dataset.train[int(i)] for i in some])
  parts = {"training": train, tables.SPLITS[split]: np.asarray(other[:size])}
  if len(dataset.shape) == 3:
    measured = {f"distance to {name}": distances(x, part) for name, part in parts.items()}
  else:
    measured = {
      f"runs of {length} in {name}": found_in(x, part, length)
      for length in RUNS
      for name, part in parts.items()
    }
  for name, values in measured.items():
    yield name, float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)
  if len(dataset.shape) == 3:
    yield "least distance to any training", float(distances(x, dataset.train).min()), 0.0


def rows(args: argparse.Namespace) -> Iterator[dict]:
  """Rows of `benchmarks.tables`: data first, then each model at each number of steps."""
  dataset, first = None, None
  for word in args.models:
    name, _, workdir = word.partition("=")
    kind = "teacher" if name == "teacher" else "student"
    source = records.find_model(epath.Path(workdir), kind)
    first = first or source.config.dataset
    if source.config.dataset != first:
      raise SystemExit(f"{workdir} is of other data than {args.models[0]}; compare them by turns")
    if dataset is None:
      dataset = build.make_dataset(source.config)
      yield from _of_data(dataset, source.config, args)
    model = drawing.load(source, kind == "student", 0.0)
    asked = args.teacher_nfe if kind == "teacher" else args.nfe
    for steps in dict.fromkeys(map(model.num_steps, asked)):
      draw = drawing.make_draw(model.denoiser, steps, 1.0, 1.0, model.sampler)
      labels = np.arange(args.num) % max(model.denoiser.num_classes, 1)
      x = np.concatenate(list(drawing.draw_batches(model, draw, _SEED, labels)))
      nfe = model.denoiser.evaluations(steps)
      yield from _cells(f"{name}, {nfe} NFE", measure(x, dataset, args.split))


def _of_data(dataset: Dataset, config: ConfigDict, args: argparse.Namespace) -> Iterator[dict]:
  """The cells of data that are in neither what samples are compared with, where there are any."""
  if len(dataset.shape) != 3 and "alphabet" not in config.dataset:
    raise SystemExit(
      f"dataset.name is {config.dataset.name!r}: neither images nor text, which can be copied"
    )
  if getattr(dataset, args.split) is None:
    raise SystemExit(f"{config.dataset.name} has no split {args.split!r}; give another --split")
  others = _OTHER[args.split]
  if getattr(dataset, others) is not None:
    data = np.asarray(getattr(dataset, others)[: args.num])
    name = f"{len(data)} {tables.SPLITS[others]} examples"
    yield from _cells(name, measure(data, dataset, args.split))


def _cells(model: str, measured: Iterator[tuple[str, float, float]]) -> Iterator[dict]:
  for metric, value, error in measured:
    yield {"model": model, "metric": metric, "nfe": 0, "value": value, "stderr": error or None}


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.copies",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("models", nargs="+", help="NAME=WORKDIR")
  parser.add_argument("--nfe", type=students.numbers, default=(1, 2, 4), help="of students")
  parser.add_argument("--teacher_nfe", type=students.numbers, default=(64,))
  parser.add_argument("--num", type=int, default=512, help="samples of a cell")
  parser.add_argument("--split", choices=tuple(_OTHER), default="held_out", help="compared with")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/copies"))
  args = parser.parse_args()
  students.check_names(parser, args.models)
  if len({word.partition("=")[0] for word in args.models}) < len(args.models):
    parser.error("two models have one name; give each its own")
  cli.keep_compiled_programs()
  found = {
    "caption": f"{args.num:,} samples of each model; ± is one standard error over them.",
    "command": shlex.join(["python", "-m", "benchmarks.copies", *sys.argv[1:]]),
    "made_by": made_by(f"{platform.machine()}, {os.cpu_count()} cores"),
    "rows": list(rows(args)),
  }
  students.show(found, args.out)


if __name__ == "__main__":
  main()
