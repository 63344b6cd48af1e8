"""Shows results side by side: `python -m dmmd_jax compare RUN ... [--out=x.png]`. No jax."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from dmmd_jax import cli, config_file, runs
from dmmd_jax.diffusion import registry
from dmmd_jax.report import figures
from dmmd_jax.report import tables as report_tables

# What says what a token is: figures of runs that differ in it have nothing in common.
_TOKENS = ("name", "shape", "alphabet", "length", "num_categories", "num_hidden")
# Of the section `evaluate`: how many cells there are and how exact; and a place.
_NO_DIFFERENCE = {"teacher_nfe", "student_nfe", "num_sample_batches", "inception", "brief"}
# How models have sampled: other samplers are other models; and what runs of before had.
_SAMPLED = {
  "sampler": "ancestral", "student_sampler": "ancestral", "grid": "even", "times": [],
  "last_step": "drawn",
}  # fmt: skip
# The input that makes a model, where it has another name.
_MADE_BY = {"autoregressive": "reference"}


class Run(NamedTuple):
  """The results of a run, and the state of the evaluation that made them."""

  name: str
  results: dict[str, Any]
  state: str


class Model(NamedTuple):
  """Rows of one model by metric and NFE, and the names of the runs that have it.

  `identity` tells it from others; None where nothing does.
  """

  name: str
  runs: list[str]
  identity: Any
  rows: dict[tuple[str, int], dict]


def main(argv: list[str] | None = None) -> None:
  parser = cli.Parser("dmmd_jax.compare", "Shows the results of several runs side by side.")
  parser.add_argument("runs", nargs="+", metavar="RUN", help="workdir of a run that was evaluated")
  parser.add_argument("--metric", help="this metric alone, such as frechet")
  parser.add_argument("--out", metavar="PNG", help="draw the curves, too: a .png file")
  parser.add_argument("--json", action="store_true", help="print JSON in place of tables")
  args = parser.parse_args(argv)
  try:
    out = cli.find_output(args.out, (".png",), "curves") if args.out else None
    found = [load(path, name) for path, name in zip(args.runs, names(args.runs), strict=True)]
    require_same_data(found)
    metrics = shared_metrics(found, args.metric)
  except ValueError as error:
    parser.error(str(error))
  models = merged(found, metrics)
  rows = labelled(models, len(found))
  notes = [*differences(found), *warnings(found)]
  if args.json:
    fields = [{"model": m.name, "runs": m.runs, "rows": [*m.rows.values()]} for m in models]
    print(json.dumps({"models": fields, "notes": notes}, indent=1))
  else:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    print("\n".join([*tables(found, rows, metrics, width), *notes]))
  if out:
    reference = found[0].results["reference"]
    same = all(run.results["reference"] == reference for run in found)
    figures.save_quality(out, {"rows": rows, "reference": reference if same else {}})
    print(f"wrote {out}", file=sys.stderr if args.json else sys.stdout)


def names(paths: list[str]) -> list[str]:
  """The ends of paths, as short as tells them apart. Raises `ValueError` for one named twice."""
  parts = [os.path.abspath(path).strip(os.sep).split(os.sep) for path in paths]
  if len({*map(tuple, parts)}) < len(parts):
    raise ValueError("one of the runs is named twice; expected each of them once")
  for more in range(max(map(len, parts))):
    # A number, such as a seed, is no name by itself.
    ends = ["/".join(p[-1 - more - p[-1].isdecimal() :]) for p in parts]
    if len({*ends}) == len(ends):
      break
  return ends


def load(path: str, name: str) -> Run:
  """The results in a workdir. Raises `ValueError` where there are none."""
  workdir = cli.find_run(path)
  phase = runs.read(workdir).get("evaluate")
  if phase is None:
    raise ValueError(f"{path} has no results; run its phase evaluate")
  if not phase.results:
    raise ValueError(f"the evaluation in {path} is {phase.state}; run its phase evaluate again")
  return Run(name, phase.results, phase.state)


def require_same_data(found: list[Run]) -> None:
  """Raises `ValueError` where the tokens of two runs mean different things."""
  first = found[0]
  for run in found[1:]:
    ours, theirs = (r.results["config"]["dataset"] for r in (first, run))
    for field in _TOKENS:
      if ours.get(field) != theirs.get(field):
        raise ValueError(
          f"dataset.{field} is {ours.get(field)} in {first.name} and {theirs.get(field)} in"
          f" {run.name}; expected runs on the same data"
        )


def shared_metrics(found: list[Run], wanted: str | None) -> list[str]:
  """The metrics that all runs have, or the one `wanted`. Raises `ValueError` for none."""
  of_runs = [dict.fromkeys(row["metric"] for row in run.results["rows"]) for run in found]
  shared = [metric for metric in of_runs[0] if all(metric in others for others in of_runs)]
  if not shared:
    raise ValueError("the runs share no metric; expected runs that were measured alike")
  if wanted and wanted not in shared:
    meant = config_file.nearest(wanted, shared)
    raise ValueError(f"no metric {wanted!r}; the runs share {', '.join(shared)}{meant}")
  return [wanted] if wanted else shared


def merged(found: list[Run], metrics: list[str]) -> list[Model]:
  """The models of all runs, teachers first; one that several measured with equal results once."""
  models: list[Model] = []
  for run in found:
    for model in _models(run, metrics):
      same = next((other for other in models if _is_same(model, other)), None)
      if same:
        same.runs.extend(model.runs)
        same.rows.update(model.rows)
      else:
        models.append(model)
  kinds = list(dict.fromkeys(model.name for model in models))
  return sorted(models, key=lambda model: kinds.index(model.name))


def _models(run: Run, metrics: list[str]) -> Iterator[Model]:
  results = run.results
  is_exact = results["config"]["distill"]["teacher"] == "exact"
  rows = [row for row in results["rows"] if row["metric"] in metrics]
  for name in dict.fromkeys(row["model"] for row in rows):
    made = results["inputs"].get(_MADE_BY.get(name, name), {})
    identity = "exact" if name == "teacher" and is_exact else made.get("digest")
    cells = {(row["metric"], row["nfe"]): row for row in rows if row["model"] == name}
    yield Model(name, [run.name], identity, cells)


def labelled(models: list[Model], num_runs: int) -> list[dict]:
  """Rows of all models, in order of their NFE, whose `model` says of which runs it is."""
  return [
    row | {"model": _label(model, num_runs)}
    for model in models
    for row in sorted(model.rows.values(), key=lambda row: row["nfe"])
  ]


def _label(model: Model, num_runs: int) -> str:
  if len(model.runs) == num_runs:
    return model.name
  first, *others = model.runs
  whose = f"{first} and {len(others)} more" if len(others) > 1 else ", ".join(model.runs)
  return f"{whose} {model.name}"


def _is_same(one: Model, other: Model) -> bool:
  both = one.rows.keys() & other.rows.keys()
  is_one_model = one.identity and (one.name, one.identity) == (other.name, other.identity)
  return bool(is_one_model and both and all(one.rows[cell] == other.rows[cell] for cell in both))


def tables(found: list[Run], rows: list[dict], metrics: list[str], width: int) -> Iterator[str]:
  """Lines of Markdown: a table of each metric, in parts where it is wider than `width`."""
  for metric in metrics:
    yield f"### {report_tables.heading(metric)}"
    yield ""
    table = report_tables.metric_table(rows, metric)
    for part in _parts([table.header, *table.rows], width):
      yield from _aligned(part)
      yield ""
    yield from _real_data(found, metric)


def _real_data(found: list[Run], metric: str) -> Iterator[str]:
  measured = [run for run in found if metric in run.results["reference"]]
  lines = {run.name: report_tables.real_data(run.results, metric) for run in measured}
  is_same = len({*lines.values()}) == 1
  for name, line in list(lines.items())[: 1 if is_same else None]:
    yield line if is_same else f"{name}: {line}"
  yield from [""] if lines else []


def _parts(table: list[list[str]], width: int) -> Iterator[list[list[str]]]:
  """The table in columns that fit, at least one beside the first; lines without cells left out."""
  sizes = [max(map(len, column)) + 3 for column in zip(*table, strict=True)]
  start = 1
  while start < len(sizes):
    end = start + 1
    while end < len(sizes) and sizes[0] + sum(sizes[start : end + 1]) + 1 <= width:
      end += 1
    yield [[line[0], *line[start:end]] for line in table if any(line[start:end])]
    start = end


def _aligned(table: list[list[str]]) -> Iterator[str]:
  head, *body = cli.pad(table)
  for line in (head, ["-" * len(cell) for cell in head], *body):
    yield f"| {' | '.join(line)} |"


def differences(found: list[Run]) -> Iterator[str]:
  """A line for everything in which the runs were measured differently."""
  measured = {run.name: _measured(run.results) for run in found}
  for what in dict.fromkeys(what for of_run in measured.values() for what in of_run):
    by_value: dict[str, list[str]] = {}
    for name, of_run in measured.items():
      by_value.setdefault(of_run.get(what, "none"), []).append(name)
    if len(by_value) > 1:
      values = "; ".join(f"{value} in {', '.join(names)}" for value, names in by_value.items())
      field = what.removeprefix("evaluate.")
      is_sampling = field.startswith("teacher_") or field in {*_SAMPLED, *registry.SAMPLERS}
      why = "models sampled differently" if is_sampling else "not comparable"
      yield f"{why}: {what} is {values}"


def _measured(results: dict[str, Any]) -> dict[str, str]:
  """How results were measured: fields of the config, the number of samples, and what was read."""
  settings = (_SAMPLED | results["config"]["evaluate"]).items()
  fields = {f"evaluate.{field}": str(x) for field, x in settings if field not in _NO_DIFFERENCE}
  samples = {"samples per cell": str(results["rows"][0]["num_samples"])}
  read = {}
  for name, made in results["inputs"].items():
    if name not in ("teacher", "student"):
      what = next(x for x in ("fingerprint", "digest", "sha256", "step") if made.get(x))
      read[f"{name}.{what}"] = _short(made[what])
  return fields | samples | read


def _short(identity: str | int | dict[str, str]) -> str:
  """The beginning of a digest, or of those of several files; a step as it is."""
  parts = identity.values() if isinstance(identity, dict) else [identity]
  return " ".join(str(part)[:8] for part in parts)


def warnings(found: list[Run]) -> Iterator[str]:
  """A line for every model that is not what it will be, or is no more."""
  for run in found:
    if run.state == "out of date":
      yield f"{run.name} has other models now than those that were measured; evaluate it again"
    for name, made in run.results["inputs"].items():
      if not made.get("finished", True):
        yield f"the {name} of {run.name} is not finished: measured at step {made['step']}"


if __name__ == "__main__":
  cli.run(main)
