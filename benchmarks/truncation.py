"""Temperature and top-p of a text teacher: `python -m benchmarks.truncation --workdir=runs/text`.

Samples the teacher over a grid of both, measures on the validation split (`--split=held_out` is for
the table of what was chosen), prints a table and draws `truncation.png`: perplexity falls without
end with the temperature, the Gradient Moment turns back up (D-MMD, arXiv 2603.20155, Figure 3). The
best setting is for `evaluate.teacher_top_p`, and for `distill.top_p`.
"""

import argparse
import pathlib

import matplotlib
from etils import epath

from benchmarks import frontier
from dmmd_jax import drawing, records

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TEMPERATURES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
TOP_PS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.5)
METRICS = ("gradient_moment", "perplexity", "unigram_entropy")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--workdir", type=epath.Path, default=epath.Path("runs/text_dmmd"))
  parser.add_argument("--steps", type=int, default=64)
  parser.add_argument("--split", choices=("validation", "held_out"), default="validation")
  parser.add_argument("--batches", type=int, default=4)
  args = parser.parse_args()
  teacher = records.find_model(args.workdir, "teacher")
  measures = frontier.make_text_measures(teacher.config, args.workdir, args.split)
  model = drawing.load(teacher, is_student=False, guidance=0.0)
  found = {}
  settings = [(t, 1.0) for t in TEMPERATURES] + [(1.0, p) for p in TOP_PS]
  print(f"| temperature | top-p | {' | '.join(METRICS)} |\n|---|---|{'---|' * len(METRICS)}")
  for temperature, top_p in settings:
    rows = frontier.measure(model, measures, args.steps, temperature, top_p, args.batches)
    found[temperature, top_p] = {metric: rows[metric] for metric in METRICS}
    cells = " | ".join(f"{v:.3g} ± {e:.1g}" for v, e in found[temperature, top_p].values())
    print(f"| {temperature} | {top_p} | {cells} |", flush=True)
  print(
    f"\nMeasured on the {args.split} split at {args.steps} NFE; ± is one standard error"
    f" over {args.batches} batches."
  )
  plot(found, args.workdir / "truncation.png")


def plot(found: dict, path: pathlib.Path) -> None:
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
  curves = {"temperature": [(t, 1.0) for t in TEMPERATURES], "top-p": [(1.0, p) for p in TOP_PS]}
  for axis, metric in zip(axes, METRICS[:2], strict=True):
    for name, settings in curves.items():
      x = [min(setting) for setting in settings]
      values, errors = zip(*(found[setting][metric] for setting in settings), strict=True)
      axis.errorbar(x, values, errors, marker="o", capsize=2, label=name)
    axis.set_xlabel("temperature, or top-p")
    axis.set_title(metric.replace("_", " "), fontsize=9)
    axis.invert_xaxis()
    axis.legend(fontsize=8)
  figure.tight_layout()
  figure.savefig(path, dpi=110)


if __name__ == "__main__":
  main()
