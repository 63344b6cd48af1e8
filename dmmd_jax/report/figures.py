"""Figures: quality against NFE, and pictures of samples. Drawn with matplotlib."""

import io

import numpy as np
from etils import epath

from dmmd_jax.report import pictures
from dmmd_jax.report.tables import metrics_of, models_of, title_of

# Stands for the colour of the text around a figure until the figure is written.
_INK = "#010203"


def save_quality(path: epath.Path, results: dict) -> None:
  """A PNG of quality against NFE, one panel per metric."""
  plt = _pyplot()
  metrics = metrics_of(results)
  figure, axes = plt.subplots(1, len(metrics), figsize=(4.6 * len(metrics), 3.6), squeeze=False)
  for axis, metric in zip(axes[0], metrics, strict=True):
    _plot_metric(axis, results, metric)
    axis.set_title(title_of(metric), fontsize=9)
  figure.tight_layout()
  path.write_bytes(_written(figure, "png", dpi=110))


def quality_svgs(results: dict) -> dict[str, str]:
  """The panels of `save_quality` by metric, as `<svg>` elements in the colour of their place."""
  plt = _pyplot()
  ink = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color"), _INK)
  style = ink | {"ytick.color": _INK, "svg.fonttype": "none", "svg.hashsalt": "dmmd_jax"}
  style["legend.frameon"] = False  # it would hide the paper
  found = {}
  for metric in metrics_of(results):
    with plt.rc_context(style):
      figure, axis = plt.subplots(figsize=(4.4, 3.0), layout="constrained")
      _plot_metric(axis, results, metric)
      svg = _written(figure, "svg", transparent=True, metadata=_NO_METADATA).decode()
    found[metric] = svg[svg.index("<svg") :].replace(_INK, "currentColor")
  return found


_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))


def save_samples(
  path: epath.Path, model: str, samples: dict[int, np.ndarray], num_categories: int
) -> None:
  """A PNG with a strip of samples of a model for each of its steps."""
  plt = _pyplot()
  figure, axes = plt.subplots(
    len(samples), 1, figsize=(10, 1.9 * len(samples)), squeeze=False, constrained_layout=True
  )
  for axis, (steps, tokens) in zip(axes[:, 0], samples.items(), strict=True):
    axis.imshow(pictures.grid(tokens, num_categories, rows=3, columns=20))
    axis.set_ylabel(f"{steps} steps", rotation=0, ha="right", va="center")
    axis.set_xticks([])
    axis.set_yticks([])
  figure.suptitle(f"{model}: the first samples of each run, not selected")
  path.write_bytes(_written(figure, "png", dpi=90))


def _plot_metric(axis, results: dict, metric: str) -> None:
  for model in models_of(results):
    points = [r for r in results["rows"] if (r["model"], r["metric"]) == (model, metric)]
    axis.errorbar(
      [r["nfe"] for r in points],
      [r["value"] for r in points],
      [r["stderr"] or 0.0 for r in points],
      marker="o",
      capsize=2,
      label=model,
    )
  if metric in results["reference"]:
    axis.axhline(results["reference"][metric][0], color="gray", linestyle=":", label="real data")
  axis.set_xscale("log", base=2)
  axis.xaxis.set_major_formatter("{x:g}")
  if metric in ("fid", "frechet"):
    axis.set_yscale("log")
  axis.set_xlabel("NFE")
  axis.legend(fontsize=8)


def _written(figure, kind: str, **settings) -> bytes:
  """A figure as a file, and closed."""
  file = io.BytesIO()
  figure.savefig(file, format=kind, **settings)
  _pyplot().close(figure)
  return file.getvalue()


def _pyplot():
  """Imported late: it takes a second, and training needs none of it."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  return pyplot
