"""Few-step students of one teacher over several seeds: distilled, evaluated, shown side by side.

What comparisons have in common. A run is a process of its own, and one that is complete does
nothing. Several teachers (`--teacher=A --teacher=B`) are taken by turns, one a seed: the errors
then have what teachers differ in, too. To choose settings it measures on the validation split;
`--split=held_out` is for the table of what was chosen.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable

import matplotlib
import numpy as np

from benchmarks import tables
from dmmd_jax.versions import made_by

matplotlib.use("Agg")
from matplotlib import pyplot as plt

# The first is drawn.
METRICS = {
  "digits": ("frechet", "class_tv", "kernel_mmd", "entropy"),
  "text": ("gradient_moment", "perplexity", "unigram_entropy", "distinct_4", "repeated_4"),
}
# Stands in overrides for the workdir of the teacher.
TEACHER = "TEACHER"


@dataclasses.dataclass(frozen=True)
class Measured:
  """What an evaluation found.

  `cells` has value, standard error (0 where there is none) and NFE by model, metric and steps.
  """

  cells: dict[tuple[str, str, int], tuple[float, float, int]]
  commit: str


def compare(
  variants: dict[str, tuple[str, str, list[str]]],
  steps: tuple[int, ...],
  args: argparse.Namespace,
  teacher_steps: tuple[int, ...] = (),
  seeds: Iterable[int] | None = None,
) -> dict[str, list[Measured]]:
  """What `read` finds for every seed of every variant: a folder in `--out`, a config, overrides.

  The teacher is measured beside the first variant, by default at all steps. Seeds are the first
  `--seeds` numbers, or those that are given.
  """
  teachers = teachers_of(args)
  results = {name: [] for name in variants}
  for turn, seed in enumerate(range(args.seeds) if seeds is None else seeds):
    teacher = teachers[turn % len(teachers)]
    for i, (name, (folder, config, overrides)) in enumerate(variants.items()):
      workdir = args.out / folder / str(seed)
      given = [f"--config.evaluate.teacher_nfe={steps[:1] if i else teacher_steps or steps}"]
      given += [word.replace(TEACHER, str(teacher)) for word in overrides]
      run(config, seed, teacher, workdir, steps, args.split, given)
      results[name].append(read(workdir))
  return results


def teachers_of(args: argparse.Namespace) -> list[pathlib.Path]:
  return args.teacher or [pathlib.Path("runs/digits_dmmd")]


def run(
  config: str,
  seed: int,
  teacher: pathlib.Path,
  workdir: pathlib.Path,
  steps: tuple[int, ...],
  split: str,
  extra: list[str],
) -> None:
  """Distils and evaluates in a process of its own; one that is complete does nothing."""
  command = [
    sys.executable, "-m", "dmmd_jax.main", f"--config={config}", f"--workdir={workdir}",
    "--config.phases=('distill','evaluate')", f"--config.distill.teacher_workdir={teacher}",
    f"--config.run.seed={seed}", f"--config.evaluate.student_nfe={steps}",
    f"--config.evaluate.split={split}", "--config.evaluate.brief=True", *extra,
  ]  # fmt: skip
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def read(workdir: pathlib.Path) -> Measured:
  results = json.loads((workdir / "evaluate" / "results.json").read_text())
  cells = {
    (row["model"], row["metric"], row["steps"]): (row["value"], row["stderr"] or 0.0, row["nfe"])
    for row in results["rows"]
  }
  return Measured(cells, tables.short_commit(results))


def statistics(
  results: dict[str, list[Measured]], metric: str, steps: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """Mean over seeds, its error and the NFE at each number of steps, `[steps, 3]`, by row.

  A student of one step has a row at that step only, and a student of whose runs some lack the
  metric, as older ones do, has none; the teacher is that of the first runs that have it.
  The error is the standard error over seeds, but at least the sampling error of one cell (root mean
  square over seeds): few seeds may agree by chance.
  """
  measured = {
    name: runs
    for name, runs in results.items()
    if all(("student", metric) in {cell[:2] for cell in run.cells} for run in runs)
  }
  if not measured:
    return {}
  rows = {"teacher": ("teacher", next(iter(measured.values())))}
  rows |= {name: ("student", runs) for name, runs in measured.items()}
  found = {}
  for name, (model, runs) in rows.items():
    drawn = [number for number in steps if (model, metric, number) in runs[0].cells]
    if not drawn:
      continue  # a student of one step, which was not asked for
    cells = np.array([[run.cells[model, metric, number] for number in drawn] for run in runs])
    mean, error = mean_and_error(cells[..., 0], cells[..., 1])
    found[name] = np.stack([mean, error, cells[0, :, 2]], 1)
  return found


def mean_and_error(values: np.ndarray, sampling: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Mean over seeds of `[seeds, ...]`, and the larger of its standard error and that of one cell.

  `sampling` are the standard errors of the cells, of which the root mean square is taken.
  """
  of_cell = np.sqrt(np.square(sampling).mean(0))
  over_seeds = values.std(0, ddof=min(1, len(values) - 1)) / np.sqrt(len(values))
  return values.mean(0), np.maximum(over_seeds, of_cell)


def summary(
  results: dict[str, list[Measured]],
  metrics: tuple[str, ...],
  steps: tuple[int, ...],
  args: argparse.Namespace,
) -> dict:
  """What `benchmarks.tables` shows: mean and error over seeds of every row, metric and NFE.

  Rows have the commit of their runs, which may be older than this one.
  """
  seeds = len(next(iter(results.values())))
  num_teachers = len(set(teachers_of(args)[:seeds]))
  teachers = "one teacher" if num_teachers == 1 else f"{num_teachers} teachers"
  few = "" if seeds >= 3 else "; fewer than three seeds say little of the spread between them"
  first = next(iter(results))
  commits = {
    name: ", ".join(sorted({run.commit for run in runs})) for name, runs in results.items()
  }
  commits["teacher"] = commits[first]  # measured beside it
  rows = [
    {"model": name, "metric": metric, "nfe": int(nfe), "value": value, "stderr": stderr}
    | {"commit": commits[name]}
    for metric in metrics
    for name, cells in statistics(results, metric, steps).items()
    for value, stderr, nfe in cells.tolist()
  ]
  return {
    "caption": f"{seeds} seed{'s' * (seeds > 1)} of {teachers}, against the"
    f" {tables.SPLITS[args.split]} split; ± is the larger of the standard error over seeds and the"
    f" sampling error of one cell{few}.",
    "command": shlex.join(
      ["python", "-m", f"benchmarks.{pathlib.Path(sys.argv[0]).stem}", *sys.argv[1:]]
    ),
    "seeds": seeds,
    "split": args.split,
    "made_by": made_by(f"{platform.machine()}, {os.cpu_count()} cores"),
    "rows": rows,
  }


def show(found: dict, out: pathlib.Path) -> None:
  """Prints all tables of a `summary`, and writes it into `out`.

  What has no NFE, as the cost of training, has 0, and a table of its own.
  """
  for metric in dict.fromkeys(row["metric"] for row in found["rows"] if row["nfe"]):
    print(f"\n{tables.render(found, metric)}")
  if not all(row["nfe"] for row in found["rows"]):
    print(f"\n{tables.render(found, nfe='0')}")
  print(f"\n{tables.caption(found)}")
  out.mkdir(parents=True, exist_ok=True)
  (out / "results.json").write_text(json.dumps(found, indent=1) + "\n")


def numbers(text: str, least: float = 1, kind: type = int) -> tuple:
  """Of a flag: `1,2,4`. Raises `ArgumentTypeError` for what is not, or is below the least."""
  try:
    found = tuple(map(kind, text.split(",")))
    if min(found) >= least:
      return found
  except ValueError:
    pass
  raise argparse.ArgumentTypeError(f"found {text!r}; expected numbers of at least {least}")


def number(text: str) -> int:
  """Of a flag: the one whole number that it is."""
  found = numbers(text)
  if len(found) > 1:
    raise argparse.ArgumentTypeError(f"found {text!r}; expected one number")
  return found[0]


def check_names(parser: argparse.ArgumentParser, models: list[str]) -> None:
  """Ends with an error where one of the arguments `models` is no `NAME=WORKDIR`."""
  for word in models:
    if not all(word.partition("=")):
      parser.error(f"{word!r} is no NAME=WORKDIR, such as dmmd=runs/text_dmmd")


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
  """Those of every comparison of students."""
  parser.add_argument(
    "--teacher", type=pathlib.Path, action="append", help="a workdir, by default runs/digits_dmmd"
  )
  parser.add_argument("--seeds", type=number, default=3, help="three at least for errors that hold")
  parser.add_argument(
    "--split", choices=("validation", "held_out"), default="validation", help="measured on"
  )
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out))


def plot(rows: dict[str, np.ndarray], metric: str, path: pathlib.Path) -> None:
  figure, axis = plt.subplots(figsize=(6.2, 3.6))
  for i, (name, cells) in enumerate(rows.items()):
    axis.errorbar(
      cells[:, 2], cells[:, 0], cells[:, 1], marker="osv^D"[i % 5], markersize=5, capsize=2,
      label=name, color="black" if name == "teacher" else plt.cm.tab20(2 * i % 21),
    )  # fmt: skip
  axis.set_xscale("log", base=2)
  axis.set_yscale("log")
  axis.set_xlabel("NFE")
  axis.set_ylabel(tables.TITLES[metric])
  axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
  figure.tight_layout()
  figure.savefig(path, dpi=110)
