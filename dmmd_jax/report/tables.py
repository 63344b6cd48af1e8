"""Tables of results, as data and as Markdown."""

import math
from typing import NamedTuple

_TITLES = {
  "fid": "FID of all samples to the training split (Inception features; lower is better)",
  "frechet": "Fréchet distance to held-out data (classifier features; lower is better)",
  "kernel_mmd": "Kernel MMD² to held-out data (unbiased, so may be below 0)",
  "class_tv": "Class coverage: total variation of the class histogram from held-out data",
  "nfe_spent": "NFE spent, of those that an adaptive sampler may take (mean over samples)",
  "entropy": "Mean entropy of the predictions (nats per position)",
  "nll": "Negative log-likelihood under the true distribution (nats per token)",
  "gradient_moment": "Gradient Moment under the reference model (unbiased; lower is better)",
  "perplexity": "Generative perplexity per token under the reference model",
  "unigram_entropy": "Entropy of a sample's own unigram distribution (nats)",
  "distinct_4": "Share of different 4-grams among all",
  "repeated_4": "Share of a sample's 4-grams that it has had before",
  "component_tv": "Total variation of the mixture components from the truth",
  "pair_tv": "Total variation of pairs of tokens from the truth, mean over distances 1, 2, 4, …",
  "pair_mmd": "MMD² of pairs of tokens to the truth, at all distances (may be below 0)",
  "impossible": "Share of samples that the true distribution cannot produce",
}

_NFE = (
  "NFE are the evaluations of the network that draw a token: one a step, two if guided by labels;"
  " in blocks, those of the token's own block and one that writes it to the cache. The"
  " autoregressive model takes as many evaluations, one after the other, as there are tokens, each"
  " of one token. Of an adaptive sampler they are the most that it may take."
)

# Metrics of real data and their standard errors, where several batches were measured.
Reference = dict[str, tuple[float, float | None]]


class Table(NamedTuple):
  """Cells as text; the first of each row is its name."""

  title: str
  header: list[str]
  rows: list[list[str]]
  note: str = ""


def title_of(metric: str) -> str:
  """The name of a metric, without units and remarks."""
  return _TITLES.get(metric, metric).split(" (")[0].split(":")[0]


def models_of(results: dict) -> list[str]:
  return list(dict.fromkeys(row["model"] for row in results["rows"]))


def metrics_of(results: dict) -> list[str]:
  return list(dict.fromkeys(row["metric"] for row in results["rows"]))


def heading(metric: str) -> str:
  """The name of a metric, with units and remarks."""
  return _TITLES.get(metric, metric)


def results_table(results: dict) -> str:
  """Markdown: one table per metric, models in rows, NFE in columns.

  `rows` are metrics of a `model` at an `nfe`, `seconds` their `seconds_per_sample`. `reference` are
  metrics of real data of the `reference_split`; all are measured against the `split`.
  """
  parts = [line for table in tables(results) for line in (*markdown(table), "")]
  return "\n".join(parts + remarks(results)) + "\n"


def tables(results: dict) -> list[Table]:
  """One table per metric, and one of times: models in rows, NFE in columns."""
  found = []
  for metric in metrics_of(results):
    note = real_data(results, metric) if metric in results["reference"] else ""
    found.append(metric_table(results["rows"], metric)._replace(note=note))
  cells = {
    (r["model"], r["nfe"]): f"{1e3 * r['seconds_per_sample']:.2f}" for r in results["seconds"]
  }
  return [*found, _of_cells(results["rows"], "Milliseconds per sample", cells)]


def metric_table(rows: list[dict], metric: str) -> Table:
  """A metric of all models at all NFE in `rows`."""
  of_metric = [r for r in rows if r["metric"] == metric]
  cells = {(r["model"], r["nfe"]): number(r["value"], r["stderr"]) for r in of_metric}
  return _of_cells(rows, heading(metric), cells)


def real_data(results: dict, metric: str) -> str:
  """A sentence on a metric of real data, which `results` have."""
  real, split = number(*results["reference"][metric]), split_name(results["reference_split"])
  return f"Real data ({split} split) in place of samples: {real}."


def remarks(results: dict) -> list[str]:
  """What all tables have in common."""
  samples = results["rows"][0]["num_samples"] if results["rows"] else 0
  return [
    f"{samples} samples per cell, measured against the {split_name(results['split'])} split; ± is"
    " one standard error over batches.",
    _NFE,
    *sampling(results.get("config", {}).get("evaluate", {})),
  ]


def sampling(evaluate: dict) -> list[str]:
  """How models have sampled, by the section `evaluate` of a config; older ones do not say."""
  names = [evaluate.get(field) for field in ("sampler", "student_sampler")]
  if not all(names):
    return []
  settings = {name: evaluate[name] for name in names if evaluate.get(name)}
  with_settings = ", ".join(f"{k}={v}" for own in settings.values() for k, v in own.items())
  return [
    f"Samplers: {names[0]} of the teacher, {names[1]} of the student, unless its method has a way"
    f" of its own{f' ({with_settings})' if with_settings else ''}; on the grid"
    f" {evaluate['grid']}, the last step {evaluate['last_step']}."
  ]


def notes(results: dict) -> list[str]:
  """Bits per token and perplexities by name, and the models that are not finished."""
  split = split_name(results["split"])
  bits = [
    f"{name}: {number(*value)} bits per token of the {split} split, perplexity {perplexity(value)}."
    for name, value in results["bits_per_token"].items()
  ]
  return bits + [
    f"The {name} is not finished: measured at step {made['step']}."
    for name, made in results["inputs"].items()
    if not made.get("finished", True)
  ]


def _of_cells(rows: list[dict], title: str, cells: dict[tuple[str, int], str]) -> Table:
  """A table of `cells` by model and NFE, of all models and NFE in `rows`."""
  nfes = sorted({row["nfe"] for row in rows})
  models = dict.fromkeys(row["model"] for row in rows)
  lines = [[model, *(cells.get((model, nfe), "") for nfe in nfes)] for model in models]
  return Table(title, ["model \\ NFE", *map(str, nfes)], lines)


def markdown(table: Table) -> list[str]:
  """Its lines."""
  lines = [
    f"### {table.title}",
    "",
    f"| {' | '.join(table.header)} |",
    "|---" * len(table.header) + "|",
    *(f"| {' | '.join(row)} |" for row in table.rows),
  ]
  return lines + (["", table.note] if table.note else [])


def perplexity(bits: tuple[float, float | None]) -> str:
  """2 to the power of bits per token, with the error that theirs makes."""
  value, stderr = bits
  return number(2.0**value, stderr and 2.0**value * math.log(2.0) * stderr)


def split_name(split: str) -> str:
  return {"train": "training", "validation": "validation", "held_out": "held-out"}[split]


def number(value: float, stderr: float | None) -> str:
  """The value with as many decimals as two digits of its standard error need.

  Without one it has three decimals, and more where these would leave it a single digit.
  """
  if isinstance(value, int) and not stderr:
    return f"{value:,}"
  if not stderr or not math.isfinite(stderr):
    is_short = not math.isfinite(value) or abs(value - round(value, 3)) < 1e-9
    size = 0 if is_short else math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(1 - size, 3), 7)}f}"
  decimals = min(max(1 - math.floor(math.log10(stderr)), 1), 7)
  return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"
