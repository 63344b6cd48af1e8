"""Few-step students side by side: D-MMD, the kernel score, and both, over several seeds.

    python -m benchmarks.few_steps --teacher=runs/digits_dmmd --out=runs/few_steps
    python -m benchmarks.few_steps --data=text --teacher=runs/text_dmmd --out=runs/text_few_steps

distils a trained teacher with each method and seed (on two cores a minute a student of digits, five
a student of text), evaluates, prints Markdown tables (mean over seeds and its standard error) and
draws `few_steps.png`. What is complete in `--out` is not run again. Arguments after `--` go to
every run.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt

METHODS = {
  "digits": {
    "D-MMD": "configs/digits_dmmd.py",
    "kernel score": "configs/digits_kernel.py",
    "both": "configs/digits_dmmd_kernel.py",
  },
  "text": {
    "D-MMD": "configs/text_dmmd.py",
    "both": "configs/text_dmmd_kernel.py",
  },
}
# The first is drawn.
METRICS = {
  "digits": ("frechet", "class_tv", "kernel_mmd", "entropy"),
  "text": ("gradient_moment", "perplexity", "unigram_entropy", "distinct_4", "repeated_4"),
}
NFES = (1, 2, 4, 8, 16)


def run(
  config: str,
  seed: int,
  teacher: pathlib.Path,
  workdir: pathlib.Path,
  nfes: tuple[int, ...],
  extra: list[str],
) -> None:
  """Distils and evaluates in a process of its own; one that is complete does nothing."""
  command = [
    sys.executable, "-m", "dmmd_jax.main", f"--config={config}", f"--workdir={workdir}",
    "--config.phases=('distill','evaluate')", f"--config.distill.teacher_workdir={teacher}",
    f"--config.run.seed={seed}", f"--config.evaluate.teacher_nfe={nfes}",
    f"--config.evaluate.student_nfe={nfes}", *extra,
  ]  # fmt: skip
  subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def read(workdir: pathlib.Path) -> dict[tuple, float]:
  rows = json.loads((workdir / "evaluate" / "results.json").read_text())["rows"]
  return {(row["model"], row["metric"], row["nfe"]): row["value"] for row in rows}


def statistics(
  results: dict[str, list[dict]], metric: str, nfes: tuple[int, ...]
) -> dict[str, np.ndarray]:
  """Mean over seeds and its standard error at each NFE, `[NFEs, 2]`, of every row of the table."""
  rows = {"teacher": ("teacher", next(iter(results.values())))}
  rows |= {name: ("student", runs) for name, runs in results.items()}
  found = {}
  for name, (model, runs) in rows.items():
    values = np.array([[run[model, metric, nfe] for nfe in nfes] for run in runs])
    errors = values.std(0, ddof=min(1, len(runs) - 1)) / np.sqrt(len(runs))
    found[name] = np.stack([values.mean(0), errors], 1)
  return found


def table(rows: dict[str, np.ndarray], metric: str, nfes: tuple[int, ...]) -> str:
  lines = [f"| {metric}, NFE | {' | '.join(map(str, nfes))} |", "|---" * (len(nfes) + 1) + "|"]
  for name, cells in rows.items():
    lines.append(f"| {name} | {' | '.join(f'{v:.3g} ± {e:.2g}' for v, e in cells)} |")
  return "\n".join(lines)


def plot(rows: dict[str, np.ndarray], metric: str, path: pathlib.Path) -> None:
  figure, axis = plt.subplots(figsize=(5, 3.4))
  for name, cells in rows.items():
    axis.errorbar(NFES, cells[:, 0], cells[:, 1], marker="o", capsize=2, label=name)
  axis.set_xscale("log", base=2)
  axis.set_yscale("log")
  axis.set_xlabel("NFE")
  axis.set_ylabel(metric)
  axis.legend(fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data", choices=METHODS, default="digits")
  parser.add_argument("--teacher", type=pathlib.Path, default=pathlib.Path("runs/digits_dmmd"))
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/few_steps"))
  parser.add_argument("--seeds", type=int, default=3)
  parser.add_argument("extra", nargs="*")
  args = parser.parse_args()
  extra = args.extra
  if args.data == "text":
    extra = [f"--config.reference.workdir={args.teacher}", *extra]
  methods = METHODS[args.data]
  results = {name: [] for name in methods}
  for seed in range(args.seeds):
    for name, config in methods.items():
      workdir = args.out / pathlib.Path(config).stem / str(seed)
      run(config, seed, args.teacher, workdir, NFES, extra)
      results[name].append(read(workdir))
  for i, metric in enumerate(METRICS[args.data]):
    rows = statistics(results, metric, NFES)
    print("\n" + table(rows, metric, NFES))
    if i == 0:
      plot(rows, metric, args.out / "few_steps.png")


if __name__ == "__main__":
  main()
