"""Perplexity against entropy: text models at many temperatures, in a few steps.

    python -m benchmarks.frontier --nfe=4 --reference=runs/text_dmmd teacher=runs/text_dmmd \
        dmmd=runs/methods/dmmd/048e4d788bdf/0 dmmd=runs/methods/dmmd/048e4d788bdf/1

A lower temperature buys a lower perplexity with less variety, so that perplexity alone says little
of a model: of two, the better one has the higher entropy at the same perplexity (arXiv 2604.02718).
A `teacher` is the teacher of its workdir, any other name a student; workdirs of one name are its
seeds. Prints tables, and writes `results.json` for `benchmarks.tables` and `frontier.png`.
"""

import argparse
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from benchmarks import students, tables
from dmmd_jax import cli, drawing, parallel, records
from dmmd_jax.metrics.suites import Measures, make_measures
from dmmd_jax.phases import build, reference
from dmmd_jax.phases.evaluate import result_rows, with_split
from dmmd_jax.phases.models import Model, make_draw
from dmmd_jax.versions import made_by

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TEMPERATURES = "0.6,0.7,0.8,0.9,1,1.1"
# Two minibatches of the Gradient Moment.
BATCH_SIZE = 256
METRICS = ("perplexity", "unigram_entropy", "gradient_moment", "distinct_4")


def make_text_measures(config: ConfigDict, workdir: epath.Path, split: str) -> Measures:
  """What is measured on text of a config's data, by the reference model of a workdir."""
  dataset = with_split(build.make_dataset(config), split)
  source = records.find_model(workdir, "reference")
  return make_measures(dataset, reference.load(source, dataset, parallel.make_mesh()))


def measure(
  model: drawing.Model,
  measures: Measures,
  nfe: int,
  temperature: float,
  top_p: float = 1.0,
  num_batches: int = 2,
  seed: int = 0,
) -> dict[str, tuple[float, float]]:
  """Mean and standard error of each metric over batches of samples."""
  sample = build.make_sampler(model.denoiser, model.mesh, None, temperature, top_p, model.sampler)
  row = Model("", sample, model.params, (nfe,), model.denoiser.evaluations)
  config = ConfigDict({"run": {"seed": seed}, "evaluate": {"num_sample_batches": num_batches}})
  shape = (BATCH_SIZE, *model.dataset.shape)
  steps = model.num_steps(nfe)
  batches = make_draw(config, row, shape, model.mesh)(steps)
  rows = result_rows(row, steps, batches, measures)
  return {r["metric"]: (r["value"], r["stderr"] or 0.0) for r in rows}


def frontier(args: argparse.Namespace, temperatures: tuple[float, ...]) -> Iterator[dict[str, Any]]:
  """Rows of `benchmarks.tables`, with the temperature in the place of the NFE."""
  runs: dict[str, list[epath.Path]] = {}
  for word in args.models:
    name, _, workdir = word.partition("=")
    runs.setdefault(name, []).append(epath.Path(workdir))
  measures = None
  for name, workdirs in runs.items():
    kind = "teacher" if name == "teacher" else "student"
    sources = [records.find_model(workdir, kind) for workdir in workdirs]
    models = [drawing.load(source, kind == "student", 0.0) for source in sources]
    measures = measures or make_text_measures(sources[0].config, args.reference, args.split)
    for temperature in temperatures:
      seeds = [
        measure(model, measures, args.nfe, temperature, num_batches=args.batches, seed=seed)
        for seed, model in enumerate(models)
      ]
      for metric in METRICS:
        mean, error = students.mean_and_error(*np.array([seed[metric] for seed in seeds]).T)
        cell = {"value": float(mean), "stderr": float(error)}
        yield {"model": name, "nfe": temperature, "metric": metric, **cell}
      print(f"{name}, temperature {temperature}: {metric} {mean:.4g}", flush=True)


def plot(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
  cells = {(row["model"], row["metric"], row["nfe"]): row["value"] for row in rows}
  figure, axis = plt.subplots(figsize=(6.2, 4))
  for i, name in enumerate(dict.fromkeys(row["model"] for row in rows)):
    at = sorted(t for model, metric, t in cells if (model, metric) == (name, METRICS[0]))
    x, y = ([cells[name, metric, t] for t in at] for metric in METRICS[:2])
    color = "black" if name == "teacher" else plt.cm.tab20(2 * i % 21)
    axis.plot(x, y, marker="osv^D"[i % 5], markersize=4, label=name, color=color)
  axis.set_xscale("log")
  axis.set_xlabel("perplexity")
  axis.set_ylabel(tables.TITLES["unigram_entropy"])
  axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.frontier",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("models", nargs="+", help="NAME=WORKDIR")
  parser.add_argument("--reference", type=epath.Path, required=True, help="a workdir")
  parser.add_argument("--temperatures", default=TEMPERATURES)
  parser.add_argument("--nfe", type=int, default=4)
  parser.add_argument("--batches", type=int, default=2, help="of 256 samples, of every seed")
  parser.add_argument("--split", choices=("validation", "held_out"), default="validation")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/frontier"))
  args = parser.parse_args()
  students.check_names(parser, args.models)
  cli.keep_compiled_programs()
  temperatures = tuple(map(float, args.temperatures.split(",")))
  rows = list(frontier(args, temperatures))
  found = {
    "caption": f"{args.nfe} NFE (1 of a generator of one step),"
    f" {args.batches * BATCH_SIZE:,} samples of every seed, against the"
    f" {tables.SPLITS[args.split]} split; ± is the larger of the standard error over seeds and the"
    " sampling error of one cell.",
    "column": "temperature",
    "command": shlex.join(["python", "-m", "benchmarks.frontier", *sys.argv[1:]]),
    "made_by": made_by(f"{platform.machine()}, {os.cpu_count()} cores"),
    "rows": rows,
  }
  students.show(found, args.out)
  plot(rows, args.out / "frontier.png")


if __name__ == "__main__":
  main()
