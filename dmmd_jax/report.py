"""Tables and figures from results; reads nothing but what is handed to it."""

import json
import math
from collections.abc import Callable

import numpy as np
from etils import epath

from dmmd_jax.workdir import write_whole

_TEXTS = 8

TITLES = {
  "fid": "FID of all samples to the training split (Inception features; lower is better)",
  "frechet": "Fréchet distance to held-out data (classifier features; lower is better)",
  "kernel_mmd": "Kernel MMD² to held-out data (unbiased, so may be below 0)",
  "class_tv": "Class coverage: total variation of the class histogram from held-out data",
  "entropy": "Mean entropy of the predictions (nats per position)",
  "nll": "Negative log-likelihood under the true distribution (nats per token)",
  "gradient_moment": "Gradient Moment under the reference model (unbiased; lower is better)",
  "perplexity": "Generative perplexity per token under the reference model",
  "unigram_entropy": "Entropy of a sample's own unigram distribution (nats)",
  "distinct_4": "Share of different 4-grams among all",
  "repeated_4": "Share of a sample's 4-grams that it has had before",
  "component_tv": "Total variation of the mixture components from the truth",
  "impossible": "Share of samples that the true distribution cannot produce",
}

_SPLITS = {"train": "training", "validation": "validation", "held_out": "held-out"}

_NFE = (
  "NFE are the evaluations of the network that draw a token: one a step, two under guidance; in"
  " blocks, those of the token's own block and one that writes it to the cache. The autoregressive"
  " model takes as many evaluations, one after the other, as there are tokens, each of one token."
)

# Metrics of real data and their standard errors, where several blocks were measured.
Reference = dict[str, tuple[float, float | None]]


def save_results(directory: epath.Path, results: dict) -> list[str]:
  """Writes `results.json`, `results.md` and `quality_vs_nfe.png`; returns these names.

  `results` has `rows`, `seconds`, `reference` and the names of the splits, as for `results_table`,
  `bits_per_token`: values and standard errors by name, and the `inputs` that all were made from.
  """
  text = results_table(results)
  for name, bits in results["bits_per_token"].items():
    split = _SPLITS[results["split"]]
    text += f"\n{name}: {_number(*bits)} bits per token of the {split} split.\n"
  for name, made in results["inputs"].items():
    if not made.get("finished", True):
      text += f"\nThe {name} is not finished: measured at step {made['step']}.\n"
  (directory / "results.md").write_text(text)
  plot_quality(directory / "quality_vs_nfe.png", results["rows"], results["reference"])
  write_whole(directory / "results.json", json.dumps(results, indent=1) + "\n")
  return ["results.json", "results.md", "quality_vs_nfe.png"]


def results_table(results: dict) -> str:
  """Markdown: one table per metric, models in rows, NFE in columns.

  `rows` are metrics of a `model` at an `nfe`, `seconds` their `seconds_per_sample`. `reference` are
  metrics of real data of the `reference_split`; all are measured against the `split`.
  """
  rows = results["rows"]
  parts = []
  for metric in dict.fromkeys(row["metric"] for row in rows):
    parts += [f"### {TITLES.get(metric, metric)}", "", *_markdown(metric_table(rows, metric))]
    if metric in results["reference"]:
      parts += ["", real_data(results, metric)]
    parts.append("")
  cells = {
    (r["model"], r["nfe"]): f"{1e3 * r['seconds_per_sample']:.2f}" for r in results["seconds"]
  }
  parts += ["### Milliseconds per sample", "", *_markdown(_table(rows, cells))]
  samples = rows[0]["num_samples"] if rows else 0
  parts += [
    "",
    f"{samples} samples per cell, measured against the {_SPLITS[results['split']]} split; ± is one"
    " standard error over blocks.",
    _NFE,
  ]
  return "\n".join(parts) + "\n"


def metric_table(rows: list[dict], metric: str) -> list[list[str]]:
  """Cells of the table of a metric, line by line: a head, and each model at all NFE of `rows`."""
  of_metric = [r for r in rows if r["metric"] == metric]
  cells = {(r["model"], r["nfe"]): _number(r["value"], r["stderr"]) for r in of_metric}
  return _table(rows, cells)


def real_data(results: dict, metric: str) -> str:
  """A sentence on a metric of real data, which `results` have."""
  real = _SPLITS[results["reference_split"]]
  return f"Real data ({real} split) in place of samples: {_number(*results['reference'][metric])}."


def _table(rows: list[dict], cells: dict[tuple[str, int], str]) -> list[list[str]]:
  nfes = sorted({row["nfe"] for row in rows})
  models = dict.fromkeys(row["model"] for row in rows)
  body = [[model, *(cells.get((model, n), "") for n in nfes)] for model in models]
  return [["model \\ NFE", *map(str, nfes)], *body]


def _markdown(table: list[list[str]]) -> list[str]:
  head, *body = (f"| {' | '.join(line)} |" for line in table)
  return [head, "|---" * len(table[0]) + "|", *body]


def _number(value: float, stderr: float | None) -> str:
  """The value with as many decimals as two digits of its standard error need."""
  if not stderr or not math.isfinite(stderr):
    return f"{value:.3f}"
  decimals = min(max(1 - math.floor(math.log10(stderr)), 1), 7)
  return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"


def plot_quality(path: epath.Path, rows: list[dict], reference: Reference) -> None:
  """Quality against NFE, one panel per metric."""
  plt = _pyplot()
  metrics = list(dict.fromkeys(row["metric"] for row in rows))
  figure, axes = plt.subplots(1, len(metrics), figsize=(4.6 * len(metrics), 3.6), squeeze=False)
  for axis, metric in zip(axes[0], metrics, strict=True):
    for model in dict.fromkeys(row["model"] for row in rows):
      points = [r for r in rows if (r["model"], r["metric"]) == (model, metric)]
      axis.errorbar(
        [r["nfe"] for r in points],
        [r["value"] for r in points],
        [r["stderr"] or 0.0 for r in points],
        marker="o",
        capsize=2,
        label=model,
      )
    if metric in reference:
      axis.axhline(reference[metric][0], color="gray", linestyle=":", label="real data")
    axis.set_xscale("log", base=2)
    if metric in ("fid", "frechet"):
      axis.set_yscale("log")
    axis.set_xlabel("NFE")
    axis.set_title(TITLES.get(metric, metric).split(" (")[0].split(":")[0], fontsize=9)
    axis.legend(fontsize=8)
  figure.tight_layout()
  _save(figure, path, dpi=110)


def save_texts(
  directory: epath.Path,
  samples: dict[str, dict[int, np.ndarray]],
  decode: Callable[[np.ndarray], str],
) -> list[str]:
  """Writes `samples.md`: the first texts of every model, by its steps; returns this name."""
  parts = ["# Samples: the first of each run, not selected"]
  for model, by_steps in samples.items():
    for steps, tokens in by_steps.items():
      texts = (decode(row).replace("```", 3 * '"') for row in tokens[:_TEXTS])
      parts += [f"## {model}, {steps} steps", "```\n" + "\n---\n".join(texts) + "\n```"]
  (directory / "samples.md").write_text("\n\n".join(parts) + "\n")
  return ["samples.md"]


def save_images(
  directory: epath.Path, samples: dict[str, dict[int, np.ndarray]], num_categories: int
) -> list[str]:
  """Writes `samples_<model>.png` of each model, and returns these names.

  A strip of images by steps; sequences `[n, D]` are drawn as columns.
  """
  names = {model: f"samples_{model}.png" for model in samples}
  for model, by_steps in samples.items():
    _plot_samples(directory / names[model], model, by_steps, num_categories)
  return list(names.values())


def _plot_samples(
  path: epath.Path, model: str, samples: dict[int, np.ndarray], num_categories: int
) -> None:
  plt = _pyplot()
  figure, axes = plt.subplots(
    len(samples), 1, figsize=(10, 1.9 * len(samples)), squeeze=False, constrained_layout=True
  )
  for axis, (steps, tokens) in zip(axes[:, 0], samples.items(), strict=True):
    image = tile(tokens, rows=3, columns=20) if tokens.ndim == 4 else tokens[:40].T
    axis.imshow(image / (num_categories - 1), cmap="gray", vmin=0, vmax=1)
    axis.set_ylabel(f"{steps} steps", rotation=0, ha="right", va="center")
    axis.set_xticks([])
    axis.set_yticks([])
  figure.suptitle(f"{model}: the first samples of each run, not selected")
  _save(figure, path, dpi=90)


def tile(images: np.ndarray, rows: int, columns: int) -> np.ndarray:
  """Images `[n, H, W, C]` as one image, padded by a pixel."""
  images = images[: rows * columns]
  blank = np.zeros((rows * columns - len(images), *images.shape[1:]), images.dtype)
  images = np.pad(np.concatenate([images, blank]), [(0, 0), (0, 1), (0, 1), (0, 0)])
  _, h, w, c = images.shape
  tiled = images.reshape(rows, columns, h, w, c).swapaxes(1, 2)
  return tiled.reshape(rows * h, columns * w, c)


def _save(figure, path: epath.Path, dpi: int) -> None:
  """matplotlib itself would write to folders only."""
  with path.open("wb") as file:
    figure.savefig(file, format="png", dpi=dpi)
  _pyplot().close(figure)


def _pyplot():
  """Imported late: it takes a second, and training needs none of it."""
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  return pyplot
