"""The picture of the README: digits of teacher and student at a few NFE, over the curve.

    python -m benchmarks.picture runs/both

draws them from the samples and results that `evaluate` has left in a workdir. That evaluation has
to have measured both models at all of `--nfe`:

    python -m dmmd_jax.main --config=configs/digits_dmmd_kernel.py --workdir=runs/both \
      --config.phases=distill,evaluate --config.distill.teacher_workdir=runs/digits_dmmd \
      --config.evaluate.student_nfe=1,2,4,8,16,64
"""

import argparse
import json
import pathlib

import matplotlib
import numpy as np

from benchmarks import tables

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator

COLUMNS, GAP = 12, 1
MODELS = {"teacher": "tab:gray", "student": "tab:orange"}


def strip(images: np.ndarray) -> np.ndarray:
  """The first images of `[n, H, W, 1]` side by side, `[H + gap, W', 1]`; NaN between them."""
  images = images[:COLUMNS, :, :, 0].astype(float)
  padded = np.pad(images, [(0, 0), (0, GAP), (0, GAP)], constant_values=np.nan)
  return np.concatenate(list(padded), axis=1)


def draw(folder: pathlib.Path, nfes: list[int], metric: str, out: pathlib.Path) -> None:
  rows = json.loads((folder / "results.json").read_text())["rows"]
  figure = plt.figure(figsize=(9, 4.8), constrained_layout=True)
  above, below = figure.subfigures(2, 1, height_ratios=[0.95, 1])
  for part, model in zip(above.subfigures(1, 2), MODELS, strict=True):
    part.suptitle(model, fontsize=11)
    axes = part.subplots(len(nfes), 1)
    for axis, nfe in zip(axes, nfes, strict=True):
      with np.load(folder / f"samples_{model}_{nfe}.npz") as samples:
        axis.imshow(strip(samples["tokens"]), cmap="gray")
      axis.set_ylabel(str(nfe), rotation=0, ha="right", va="center", fontsize=10)
      axis.set(xticks=[], yticks=[], frame_on=False)
  axis = below.subplots()
  for model, colour in MODELS.items():
    points = [r for r in rows if (r["model"], r["metric"]) == (model, metric)]
    x, y, error = ([r[name] or 0.0 for r in points] for name in ("nfe", "value", "stderr"))
    axis.errorbar(x, y, error, marker="o", capsize=2, color=colour, label=model)
  axis.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel=tables.TITLES[metric])
  axis.set_xticks(ticks := sorted({r["nfe"] for r in rows}), map(str, ticks))
  axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  axis.yaxis.set_major_formatter("{x:g}")
  axis.minorticks_off()
  axis.legend()
  figure.savefig(out, dpi=110)


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.picture", description=__doc__)
  parser.add_argument("run", type=pathlib.Path, help="a workdir")
  parser.add_argument("--nfe", type=int, nargs="+", default=[1, 2, 4, 64])
  parser.add_argument("--metric", default="frechet")
  parser.add_argument("--out", type=pathlib.Path, default=tables.ROOT / "docs" / "digits.png")
  args = parser.parse_args()
  draw(args.run / "evaluate", args.nfe, args.metric, args.out)


if __name__ == "__main__":
  main()
