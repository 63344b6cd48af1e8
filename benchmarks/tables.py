"""Tables of the documentation, made from result files: `make tables`.

`docs/results/NAME.json` holds what one experiment measured. In README.md and docs/*.md the lines
between

    <!-- table NAME metric=METRIC rows=A|B -->
    <!-- end table -->

are its table: models in rows, NFE in columns (or what `column` says in the file), and below it how
it was measured, where the table above does not say the same. `rows` chooses and orders the rows.
With `nfe=NFE` in place of a metric the metrics are the columns.

    python -m benchmarks.tables --add=digits --from runs/digits_dmmd
    python -m benchmarks.tables --add=noise --from "noise=runs/digits_dmmd" "none=runs/without"
    python -m benchmarks.tables --into=hmm_methods --from runs/methods_hmm/results.json

keep the results of a run, of the students of several runs under names of their own, or the students
of a later comparison in place of those by their names. What rows were made from stays with them:
their commit, their command, and their teacher where it is another one.
"""

import argparse
import difflib
import json
import pathlib
import re
import sys
import textwrap

from dmmd_jax.report.tables import number

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
SPLITS = {"held_out": "test", "validation": "validation", "train": "training"}
TITLES = {
  "class_tv": "class TV",
  "component_tv": "component TV",
  "pair_mmd": "pair MMD²",
  "pair_tv": "pair TV",
  "entropy": "entropy, nats",
  "fid": "FID",
  "frechet": "Fréchet distance",
  "gradient_moment": "Gradient Moment",
  "impossible": "impossible samples",
  "kernel_mmd": "kernel MMD²",
  "mmd2": "MMD²",
  "nfe_spent": "NFE spent",
  "nll": "nats per token",
  "perplexity": "perplexity",
  "ratio": "student / teacher",
  "unigram_entropy": "unigram entropy, nats",
}
# Rows of another teacher than that of the file, followed by the names of its students.
TEACHER_OF = "teacher of "
# What a results file keeps of an evaluation; command and commit stand for the whole config.
_KEPT = ("split", "rows", "reference", "reference_split", "bits_per_token", "made_by")
_TABLE = re.compile(r"<!-- table (\S+)((?: \w+=.+?)*) -->\n.*?<!-- end table -->", re.DOTALL)
_OPTION = re.compile(r" (metric|nfe|rows)=")


class TableError(Exception):
  """A table that cannot be made; the message says which one, and why."""


def load(name: str) -> dict:
  """The results of an experiment. Raises `TableError` where there are none."""
  path = RESULTS / f"{name}.json"
  if not path.is_file():
    known = sorted(path.stem for path in RESULTS.glob("*.json"))
    near = difflib.get_close_matches(name, known, 1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise TableError(f"no docs/results/{name}.json{meant}")
  return json.loads(path.read_text())


def render(results: dict, metric: str = "", nfe: str = "", rows: str = "") -> str:
  """Markdown of a table. Raises `TableError` for rows that are not there."""
  column = "nfe" if metric else "metric"
  columns_are = f", {results.get('column', 'NFE')}" if metric else ""
  found = _found(results, metric, nfe)
  models = rows.split("|") if rows else list(dict.fromkeys(row["model"] for row in found))
  cells = {(row["model"], row[column]): number(row["value"], row["stderr"]) for row in found}
  if not models:
    raise TableError("no such rows")
  columns = list(dict.fromkeys(row[column] for row in found if row["model"] in models))
  columns = sorted(columns) if metric and "column" not in results else columns
  lines = [
    f"| {TITLES.get(metric, metric)}{columns_are} | "
    + f"{' | '.join(TITLES.get(str(name), str(name)) for name in columns)} |",
    "|---" * (len(columns) + 1) + "|",
  ]
  for model in models:
    if not any((model, name) in cells for name in columns):
      raise TableError(f"no row {model}")
    lines.append(f"| {model} | {' | '.join(cells.get((model, n), '') for n in columns)} |")
  return "\n".join(lines)


def _found(results: dict, metric: str, nfe: str) -> list[dict]:
  """The rows of a file that a table has cells of."""
  return [r for r in results["rows"] if metric in ("", r["metric"]) and nfe in ("", str(r["nfe"]))]


def caption(results: dict, metric: str = "", nfe: str = "", rows: str = "") -> str:
  """How the cells of a table with these rows were measured, in lines of 100 characters."""
  parts = [results["caption"]]
  if metric in results.get("reference", {}):
    split = SPLITS[results["reference_split"]]
    parts.append(f"Real data ({split} split): {number(*results['reference'][metric])}.")
  if "command" in results:
    parts.append(f"`{results['command']}`, commit {short_commit(results)}.")
    # Where a teacher has no cells, as in a table of what students were trained with, which one they
    # have does not matter.
    has_teacher = any(r["model"].startswith("teacher") for r in _found(results, metric, nfe))
    parts += _made_otherwise(results, rows, has_teacher)
  return "\n".join(textwrap.wrap(" ".join(parts), 100, break_on_hyphens=False))


def _made_otherwise(results: dict, rows: str, has_teacher: bool) -> list[str]:
  """A sentence for students of another commit, command or teacher than the file says."""
  models = _by_model(results)
  shown = rows.split("|") if rows else list(models)
  of_others = {name for other in models for name in students_of(other) if other not in shown}
  said: dict[str, list[str]] = {}
  for model in (model for model in shown if not model.startswith("teacher")):
    commit = next((r["commit"] for r in models[model] if "commit" in r), short_commit(results))
    command = results.get("commands", {}).get(model, results["command"])
    otherwise = [
      *([f"commit {commit}"] if commit != short_commit(results) else []),
      *(["of another teacher"] if has_teacher and model in of_others else []),
      *([f"`{command}`"] if _flags(command) != _flags(results["command"]) else []),
    ]
    if otherwise:
      said.setdefault(", ".join(otherwise), []).append(model)
  return [f"{', '.join(names)}: {otherwise}." for otherwise, names in said.items()]


def students_of(model: str) -> list[str]:
  """The students of another teacher than that of the file, by the name of its rows."""
  return model.removeprefix(TEACHER_OF).split(", ") if model.startswith(TEACHER_OF) else []


def _flags(command: str) -> dict[str, str]:
  """What a command says but for the methods that it compares, `--name=value` by name."""
  words = (word.partition("=") for word in command.split())
  return {name: value for name, _, value in words if name != "--methods"}


def short_commit(results: dict) -> str:
  """The commit that made a results file, with + where files differed from it."""
  commit = (results.get("made_by", {}).get("commit") or "unknown").replace("-dirty", "+")
  return commit[:7] + "+" * commit.endswith("+")


def fill(text: str) -> str:
  """A document with its tables made anew. Raises `TableError`."""
  said, end = "", 0  # below the table above, and where that ends

  def table(found: re.Match) -> str:
    nonlocal said, end
    name, options = found.groups()
    _, *words = _OPTION.split(options)
    chosen = dict(zip(words[::2], words[1::2], strict=True))
    try:
      results = load(name)
      parts = [render(results, **chosen)]
    except TableError as error:
      raise TableError(f"table {name}{options}: {error}") from error
    before = "" if "\n#" in text[end : found.start()] else said  # a section says it anew
    said = caption(results, **chosen)
    end = found.end()
    if said != before:
      parts.append(said)
    return "\n\n".join([f"<!-- table {name}{options} -->", *parts, "<!-- end table -->"])

  return _TABLE.sub(table, text)


def of_run(workdir: pathlib.Path, name: str = "") -> dict:
  """What a results file keeps of an evaluation; with a `name`, of its student by that name."""
  results = json.loads((workdir / "evaluate" / "results.json").read_text())
  samples = results["rows"][0]["num_samples"]
  split = SPLITS[results["split"]]
  kept = {key: results[key] for key in _KEPT} | {
    "caption": f"{samples:,} samples a cell, against the {split} split; ± is one standard error."
  }
  if name:
    kept["rows"] = [row | {"model": name} for row in kept["rows"] if row["model"] == "student"]
  return kept


def of_runs(sources: list[str]) -> dict:
  """What a results file keeps of runs `WORKDIR` or `NAME=WORKDIR`, or of one `results.json`."""
  found = []
  for source in sources:
    name, _, path = source.rpartition("=")
    path = pathlib.Path(path)
    if not path.exists():
      raise TableError(f"no {path}; expected a workdir, or a results.json")
    found.append(of_run(path, name) if path.is_dir() else json.loads(path.read_text()))
  splits = {results.get("split") for results in found}
  if len(splits) > 1:
    raise TableError(
      f"results of several splits in one table: {', '.join(sorted(map(str, splits)))}"
    )
  rows = {}
  for row in (row for results in found for row in results["rows"]):
    cell = row["model"], row["metric"], row["nfe"]
    if rows.setdefault(cell, row)["value"] != row["value"]:
      raise TableError(
        f"{' '.join(map(str, cell))} is there twice, with other values: name a student"
        " NAME=WORKDIR, or put rows in the place of others with --into"
      )
  return found[0] | {"rows": list(rows.values())}


def replaced(results: dict, newer: dict) -> dict:
  """Results with the rows of the students of `newer` in place of their own, or after them.

  Where `newer` has other values of the teacher, those are kept as rows of a `teacher of` these
  students. Raises `TableError` where both were not measured alike.
  """
  if not {"command", "rows"} <= newer.keys() or "teacher" not in _by_model(newer):
    raise TableError(
      "what is put in has no teacher or no command; expected a results.json of benchmarks.methods"
    )
  alike = [{key: x.get(key) for key in ("seeds", "split")} for x in (results, newer)]
  for found, x in zip(alike, (results, newer), strict=True):
    found |= {flag: _flags(x["command"]).get(flag) for flag in ("--data", "--minutes")}
  for key, value in alike[0].items():
    if value != alike[1][key]:
      raise TableError(f"{key}: {value} in the file, {alike[1][key]} in what is put in")
  own, new = _by_model(results), _by_model(newer)
  teacher, measured = own.pop("teacher"), new.pop("teacher")
  others = [
    ([model for model in students_of(name) if model not in new], rows)
    for name, rows in own.items()
    if students_of(name)
  ]
  if not _agree(teacher, measured):
    known = next((models for models, rows in others if _agree(rows, measured)), None)
    if known is None:
      others.append((list(new), measured))
    else:
      known += new
  made = {"commit": short_commit(newer)}
  students = {name: rows for name, rows in own.items() if not students_of(name)}
  students |= {name: [made | row for row in rows] for name, rows in new.items()}
  named = [
    row | {"model": TEACHER_OF + ", ".join(models)}
    for models, rows in others
    if models
    for row in rows
  ]
  return results | {
    "commands": results.get("commands", {}) | dict.fromkeys(new, newer["command"]),
    "rows": [*teacher, *named, *(row for rows in students.values() for row in rows)],
  }


def _by_model(results: dict) -> dict[str, list[dict]]:
  found: dict[str, list[dict]] = {}
  for row in results["rows"]:
    found.setdefault(row["model"], []).append(row)
  return found


def _agree(first: list[dict], second: list[dict]) -> bool:
  """Whether two lists of rows, of one model, have cells in common, which differ by rounding alone.

  By no more than a tenth of an error, or a thousandth: so do teachers of one config from machines
  of one kind.
  """
  one, other = ({(row["metric"], row["nfe"]): row for row in rows} for rows in (first, second))
  pairs = [(one[cell], other[cell]) for cell in one.keys() & other.keys()]
  return bool(pairs) and all(
    abs(a["value"] - b["value"]) <= max(0.1 * (a["stderr"] or 0.0), 1e-3 * abs(a["value"]))
    for a, b in pairs
  )


def save(name: str, results: dict) -> None:
  """Writes a results file, one row a line, so that changes can be read."""
  rows = ",\n".join(f"  {json.dumps(row)}" for row in results["rows"])
  rest = {key: value for key, value in results.items() if key != "rows"}
  text = json.dumps(rest, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n'
  RESULTS.mkdir(exist_ok=True)
  (RESULTS / f"{name}.json").write_text(text)


def documents() -> list[pathlib.Path]:
  return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
  parser.add_argument("--add", help="name of a results file to write first")
  parser.add_argument("--into", help="name of one to put the rows of students into")
  parser.add_argument("--from", nargs="+", dest="sources", help="workdirs, or a results.json")
  parser.add_argument("--replace", action="store_true", help="a file that another command made")
  parser.add_argument("--command", help="the command that made it; default: what the file says")
  args = parser.parse_args()
  try:
    if args.add:
      results = of_runs(args.sources)
      before = load(args.add) if (RESULTS / f"{args.add}.json").is_file() else {}
      command = args.command or results.get("command") or before.get("command")
      if not command:
        parser.error("no results file says which command made it; give --command")
      if not args.replace and before.get("command", command) != command:
        raise TableError(
          f"docs/results/{args.add}.json is of another command, `{before['command']}`; give another"
          " name, or --replace"
        )
      save(args.add, results | {"command": command})
    if args.into:
      for source in args.sources:
        save(args.into, replaced(load(args.into), of_runs([source])))
    for path in documents():
      text = path.read_text()
      if (filled := fill(text)) != text:
        path.write_text(filled)
        print(f"{path.relative_to(ROOT)}: tables made anew")
  except TableError as error:
    sys.exit(f"benchmarks.tables: {error}")


if __name__ == "__main__":
  main()
