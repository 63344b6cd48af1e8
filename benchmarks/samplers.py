"""All samplers on one model, at many numbers of evaluations.

    python -m benchmarks.samplers --data=hmm --model=exact --out=runs/exact
    python -m benchmarks.samplers --data=hmm --model=teacher --workdir=runs/hmm_dmmd --out=runs/own

The one setting of a sampler is chosen for each number of evaluations, by the first metric on the
validation split; of samplers that decide how many they take, so that an example takes as many on
average as the column says, at most. Then every seed is drawn and measured on the test split. What
is complete in `--out` (`cells_*.json`, one of each model, `--num` and version of the samplers) is
not drawn again.

It prints tables (mean over seeds, and its standard error), and writes `results.json` for
`benchmarks.tables`, and `samplers.png`.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import matplotlib
import numpy as np
from etils import epath

from benchmarks import students, tables
from dmmd_jax import config_file, records
from dmmd_jax.diffusion import registry
from dmmd_jax.diffusion.samplers import Sampling, grids
from dmmd_jax.diffusion.samplers.sampler import Sampler
from dmmd_jax.metrics.suites import make_measures
from dmmd_jax.phases import build, reference
from dmmd_jax.phases.evaluate import with_split
from dmmd_jax.versions import made_by

matplotlib.use("Agg")
from matplotlib import pyplot as plt

METRICS = students.METRICS | {"hmm": ("pair_tv", "nll", "entropy")}
# What cells depend on beside the model.
_SOURCES = pathlib.Path(registry.__file__).parent
# Steps that a sampler which stops by itself may take at most: enough for any of these data.
_MOST = 256


class Variant(NamedTuple):
  """A sampler, the field of it that is chosen, and the values it is chosen from; its grid.

  Without values it is found so that the evaluations spent are those of the column.
  """

  sampler: Sampler
  field: str = ""
  values: tuple[float, ...] = ()
  grid: grids.Even = grids.Even()


def _make(name: str, **settings: Any) -> Sampler:
  return registry.find(name)(**settings)


VARIANTS = {
  "ancestral": Variant(_make("ancestral")),
  "ancestral, cosine": Variant(_make("ancestral"), grid=grids.Cosine()),
  "ancestral, log-SNR": Variant(_make("ancestral"), grid=grids.LogSNR()),
  "confidence, probability": Variant(_make("confidence")),
  "confidence, margin": Variant(_make("confidence", score="margin")),
  "confidence, entropy": Variant(_make("confidence", score="entropy")),
  "margin, cosine": Variant(_make("confidence", score="margin"), grid=grids.Cosine()),
  "margin, noise": Variant(
    _make("confidence", score="margin"), "choice_temperature", (0.03, 0.1, 0.3)
  ),
  "entropy, noise": Variant(
    _make("confidence", score="entropy"), "choice_temperature", (0.01, 0.1, 1.0)
  ),
  "MaskGIT": Variant(_make("confidence"), "choice_temperature", (1.0, 3.0, 10.0)),
  "entropy-bounded": Variant(_make("entropy_bounded"), "gamma"),
  "threshold": Variant(_make("threshold"), "threshold"),
  "ReMDM, cap": Variant(_make("remdm"), "eta", (0.005, 0.02, 0.08)),
  "ReMDM, rescale": Variant(_make("remdm", variant="rescale"), "eta", (0.01, 0.03, 0.1)),
  "ReMDM, conf": Variant(_make("remdm", variant="conf")),
  "ReMDM, loop": Variant(_make("remdm", variant="loop"), "eta", (0.01, 0.03, 0.1)),
  "Ψ": Variant(_make("psi"), "kappa", (0.99, 0.95, 0.8)),
  "Ψ, cosine": Variant(_make("psi"), "kappa", (0.99, 0.95, 0.8), grids.Cosine()),
  "P2": Variant(_make("p2"), "eta", (0.0, 1.0)),
}


class Model(NamedTuple):
  """What is sampled: a process, a prediction `predict(params, z, t, key)`, and the data.

  `identity` tells it from other models and other data.
  """

  process: Any
  predict: Callable
  params: Any
  dataset: Any
  language_model: Any = None
  identity: str = ""


def load(args: argparse.Namespace) -> Model:
  if args.model == "exact":
    config, _ = config_file.load(f"configs/{args.data}_dmmd.py", {})
    dataset = build.make_dataset(config)
    process = build.make_process(config, dataset)
    predict = build.ExactTeacher(dataset.joint, process).log_mean
    return Model(process, predict, (), dataset, identity=f"{config.dataset} {config.process}")
  workdir = epath.Path(args.workdir)
  source = records.find_model(workdir, args.model)
  config, mesh = source.config, jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1),
                                                  ("data", "fsdp", "tensor"))  # fmt: skip
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  if args.model == "student":
    student = build.make_denoiser(config, dataset, student=True)
    denoiser, params = student, build.load_student(source, student, denoiser, mesh)
  else:
    params = build.load_ema(source, denoiser.init, mesh)
  language_model, identity = None, f"{source.digest} {config.dataset}"
  if dataset.tokenizer:
    found = records.find_model(epath.Path(args.reference or args.workdir), "reference")
    language_model = reference.load(found, dataset, mesh)
    identity += f" {found.digest}"
  return Model(denoiser.process, denoiser.log_mean, params, dataset, language_model, identity)


class Bench:
  """Draws and measures cells of one model; those that are done are kept in a file."""

  def __init__(self, args: argparse.Namespace):
    self.args, self.model = args, load(args)
    made_of = hashlib.sha256(f"{self.model.identity} {args.num}".encode())
    for path in sorted(_SOURCES.rglob("*.py")):
      made_of.update(path.read_bytes())
    self.path = args.out / f"cells_{made_of.hexdigest()[:12]}.json"
    self.cells = json.loads(self.path.read_text()) if self.path.is_file() else {}
    self.measures = {
      split: make_measures(with_split(self.model.dataset, split), self.model.language_model)
      for split in ("validation", args.split)
    }
    self.programs: dict[Any, Callable] = {}

  def draw(self, name: str, value: float | None, steps: int, seed: int) -> tuple:
    """Tokens `[num, ...]`, the mean entropy of predictions, and evaluations spent on average."""
    variant, shape = VARIANTS[name], (self.args.num, *self.model.dataset.shape)

    # What is searched for is traced, so that the search compiles one program.
    is_searched = variant.field and not variant.values

    @jax.jit
    def program(params, key, steps, found):
      sampler = variant.sampler
      if variant.field:
        given = found if is_searched else value
        sampler = dataclasses.replace(sampler, **{variant.field: given})
      predict = functools.partial(self.model.predict, params)
      return Sampling(sampler, variant.grid)(predict, self.model.process, key, shape, steps)

    program = self.programs.setdefault(name if is_searched else (name, value), program)
    key = jax.random.fold_in(jax.random.key(seed), steps)
    drawn = program(self.model.params, key, np.int32(steps), np.float32(value or 0.0))
    spent = steps if drawn.spent is None else float(drawn.spent.mean())
    return np.asarray(drawn.tokens), float(drawn.entropy), spent

  def cell(self, name: str, value: float | None, steps: int, seed: int, split: str) -> dict:
    """The metrics of samples, with `nfe_spent`."""
    variant = VARIANTS[name]
    key = f"{name} {variant.sampler} {variant.grid} {value} {steps} {seed} {split}"
    if key not in self.cells:
      tokens, entropy, spent = self.draw(name, value, steps, seed)
      metrics = self.measures[split].of_batch(tokens, seed)
      found = metrics | {"entropy": entropy, "nfe_spent": spent}
      self.cells[key] = {metric: float(x) for metric, x in found.items()}
      self.path.parent.mkdir(parents=True, exist_ok=True)
      self.path.write_text(json.dumps(self.cells, indent=1) + "\n")
      shown = {m: round(x, 4) for m, x in self.cells[key].items()}
      print(name, value, steps, seed, split, shown, flush=True)
    return self.cells[key]

  def choose(self, name: str, nfe: int) -> tuple[float | None, int]:
    """The value of a sampler's setting at so many evaluations, and its steps."""
    variant, seed = VARIANTS[name], self.args.seeds
    if variant.field and not variant.values:
      return self.spending(name, nfe), _MOST
    first = METRICS[self.args.data][0]
    values = (variant.field and self.args.values) or variant.values
    if len(values) == 1:
      return values[0], nfe
    cells = {value: self.cell(name, value, nfe, seed, "validation")[first] for value in values}
    return min(cells, key=cells.get, default=None), nfe

  def spending(self, name: str, nfe: int) -> float:
    """The value with which an example takes `nfe` evaluations on average, or a little fewer."""
    low, high = (0.1, 1e2) if VARIANTS[name].field == "gamma" else (1.0, 1e-2)  # most, fewest
    for _ in range(12):
      middle = float(np.sqrt(low * high))
      spent = self.cell(name, middle, _MOST, self.args.seeds, "validation")["nfe_spent"]
      low, high = (middle, high) if spent > nfe else (low, middle)
      if 0.95 * nfe <= spent <= nfe:
        return middle
    return high


def rows_of(bench: Bench, names: list[str], nfes: tuple[int, ...]) -> Iterator[dict]:
  """Rows of `benchmarks.tables`, those of `setting` and `nfe_spent` among them."""
  args = bench.args
  for name in names:
    for nfe in nfes:
      value, steps = bench.choose(name, nfe)
      runs = [bench.cell(name, value, steps, seed, args.split) for seed in range(args.seeds)]
      of_cell = {"model": name, "nfe": nfe}
      for metric in (*METRICS[args.data], "nfe_spent"):
        found = np.array([run[metric] for run in runs])
        error = float(found.std(ddof=1) / np.sqrt(len(found))) if len(found) > 1 else None
        yield of_cell | {"metric": metric, "value": float(found.mean()), "stderr": error}
      if value is not None:
        yield of_cell | {"metric": "setting", "value": value, "stderr": None}


def plot(rows: list[dict], metrics: tuple[str, ...], path: pathlib.Path) -> None:
  cells = {(row["model"], row["metric"], row["nfe"]): row for row in rows}
  figure, axes = plt.subplots(1, len(metrics), figsize=(4 * len(metrics) + 2, 4))
  for axis, metric in zip(axes, metrics, strict=True):
    for i, name in enumerate(dict.fromkeys(row["model"] for row in rows)):
      nfes = [nfe for model, m, nfe in cells if (model, m) == (name, metric)]
      spent = [cells[name, "nfe_spent", nfe]["value"] for nfe in nfes]
      found = [cells[name, metric, nfe] for nfe in nfes]
      axis.errorbar(
        spent, [row["value"] for row in found], [row["stderr"] or 0.0 for row in found],
        marker="osv^D"[i % 5], markersize=4, capsize=2, linewidth=1, label=name,
        color="black" if name == "ancestral" else plt.cm.tab20(i % 20),
      )  # fmt: skip
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlabel("NFE spent")
    axis.set_ylabel(tables.TITLES.get(metric, metric))
  axes[-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.samplers",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--data", choices=METRICS, default="hmm")
  parser.add_argument("--model", choices=("exact", "teacher", "student"), default="exact")
  parser.add_argument("--workdir", help="of the teacher or student")
  parser.add_argument("--reference", help="a workdir with the reference model of text")
  parser.add_argument("--samplers", default=";".join(VARIANTS), help="some, separated by ;")
  parser.add_argument(
    "--values", type=float, nargs="+", help="to choose from, in place of the usual ones"
  )
  parser.add_argument("--nfe", default="4,8,16,32,64,256")
  parser.add_argument("--num", type=int, default=1000, help="samples of a seed")
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("--split", choices=("validation", "held_out"), default="held_out")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/samplers"))
  args = parser.parse_args()
  bench, nfes = Bench(args), tuple(map(int, args.nfe.split(",")))
  rows = list(rows_of(bench, args.samplers.split(";"), nfes))
  found = {
    "caption": f"{args.seeds} seeds of {args.num:,} samples, against the"
    f" {tables.SPLITS[args.split]} split; ± is the standard error over seeds.",
    "command": shlex.join(["python", "-m", "benchmarks.samplers", *sys.argv[1:]]),
    "made_by": made_by(f"{platform.machine()}, {os.cpu_count()} cores"),
    "rows": rows,
  }
  students.show(found, args.out)
  plot(rows, METRICS[args.data][:2], args.out / "samplers.png")


if __name__ == "__main__":
  main()
