"""Lists runs: `python -m dmmd_jax runs` says how far each is, and its best figures. No jax."""

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any, NamedTuple

from etils import epath

from dmmd_jax import cli, records
from dmmd_jax.config import ConfigError
from dmmd_jax.fields import upgraded
from dmmd_jax.workdir import latest_step

PHASES = ("reference", "teacher", "distill", "evaluate")
# Levels of folders below the one that is asked for, in which workdirs are looked for.
_LEVELS = 4


class Phase(NamedTuple):
  """How far a phase is: its `state`, its last checkpoint, and the config that it was begun with.

  The state is complete, unfinished, damaged, or for an evaluation of other models than those now in
  the workdir out of date.
  """

  state: str
  step: int
  num_steps: int | None
  config: dict[str, Any]
  results: dict[str, Any] | None = None


Run = dict[str, Phase]


def main(argv: list[str] | None = None) -> None:
  parser = cli.Parser(
    "dmmd_jax.runs", "Lists the runs in a folder: how far each is, and its best figures."
  )
  parser.add_argument(
    "dir", nargs="?", default="runs", help="folder with runs, or one of them; default: runs"
  )
  parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
  args = parser.parse_args(argv)
  try:
    root = cli.find_folder(args.dir, "a folder with runs")
  except ValueError as error:
    parser.error(str(error))
  found = {name_of(workdir, root): read(workdir) for workdir in find(root)}
  if args.json:
    print(json.dumps([summary(name, run) for name, run in found.items()], indent=1))
  elif found:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    print("\n".join(table([summary(name, run) for name, run in found.items()], width)))
  else:
    print(f"no runs in {root}; python -m dmmd_jax train starts one")


def find(folder: epath.Path, levels: int = _LEVELS) -> Iterator[epath.Path]:
  """The workdirs at and below a folder, in order of their names; what cannot be read has none."""
  try:
    folders = sorted(path for path in folder.iterdir() if path.is_dir())
  except OSError:
    return
  phases = [path for path in folders if path.name in PHASES and records.has_begun(path)]
  if phases:
    yield folder
  for path in folders:
    if levels and path not in phases and not path.name.startswith("."):
      yield from find(path, levels - 1)


def name_of(workdir: epath.Path, root: epath.Path) -> str:
  """A workdir as it is told from others below `root`."""
  if workdir == root:
    return os.path.basename(os.path.abspath(root))
  return os.fspath(workdir.relative_to(root))


def read(workdir: epath.Path) -> Run:
  """All phases that were begun in a workdir, as their records have them."""
  folders = {phase: workdir / phase for phase in PHASES}
  return {name: read_phase(path) for name, path in folders.items() if records.has_begun(path)}


def read_phase(folder: epath.Path) -> Phase:
  """A phase that was begun; never raises, since what cannot be read is damaged."""
  try:
    begun = records.read_begun(folder) or {"config": {}, "inputs": {}}
    step, config = latest_step(folder), begun["config"]
    num_steps = config.get(folder.name, {}).get("num_steps")
    if not records.is_complete(folder, begun):
      has_ended = not config or (folder / "record.json").exists()
      return Phase("damaged" if has_ended else "unfinished", step, num_steps, config)
    if folder.name != "evaluate":
      return Phase("complete", step, num_steps, config)
    is_current = records.current_inputs(folder.parent, begun) == begun["inputs"]
    results = upgraded(json.loads((folder / "results.json").read_text()))
    return Phase("complete" if is_current else "out of date", step, None, config, results)
  except (ConfigError, OSError):
    return Phase("damaged", 0, None, {})


def summary(name: str, run: Run) -> dict[str, Any]:
  """What is said of a run, as JSON has it."""
  configs = [phase.config for phase in run.values()]

  def field(section: str, key: str) -> str | None:
    return next((c[section][key] for c in configs if key in c.get(section, {})), None)

  phases = {
    phase: {"state": found.state, "step": found.step, "num_steps": found.num_steps}
    for phase, found in run.items()
  }
  return {
    "run": name,
    "data": field("dataset", "name"),
    "process": field("process", "name"),
    "method": field("distill", "method"),
    "phases": phases,
    **best(run["evaluate"].results if "evaluate" in run else None),
  }


def best(results: dict[str, Any] | None) -> dict[str, Any]:
  """The name of the first metric, and of each model its lowest value and the NFE of that.

  What comes first is a distance to the data, of which lower is better.
  """
  rows = (results or {}).get("rows", [])
  if not rows:
    return {"metric": None, "best": {}}
  metric, found = rows[0]["metric"], {}
  for row in rows:
    model = row["model"]
    if (
      row["metric"] == metric and row["value"] < found.get(model, {"value": float("inf")})["value"]
    ):
      found[model] = {"value": row["value"], "nfe": row["nfe"]}
  return {"metric": metric, "best": found}


def table(summaries: list[dict[str, Any]], width: int) -> list[str]:
  """Lines that fit `width`: what does not fit beside the name of a run goes below it."""
  phases = [phase for phase in PHASES if any(phase in s["phases"] for s in summaries)]
  columns = ("run", "data", "process", "method", *phases, "lowest")
  rows = [dict(zip(columns, _cells(s, phases), strict=True)) for s in summaries]
  about, lowest = ["data", "process", "method"], ["lowest"]
  for below in ([], [lowest], [about + lowest], [about, phases, lowest]):
    beside = [column for column in columns if not any(column in line for line in below)]
    cells = cli.pad([beside, *([row[column] for column in beside] for row in rows)])
    lines = ["  ".join(line).rstrip() for line in cells]
    if max(map(len, lines)) <= width:
      break
  printed = lines[:1]
  for line, row in zip(lines[1:], rows, strict=True):
    printed.append(line)
    for names in below:
      known = [name for name in names if row[name] not in ("", "-")]
      rest = ", ".join(f"{name} {row[name]}" if name in phases else row[name] for name in known)
      printed += textwrap.wrap(rest, width, initial_indent="  ", subsequent_indent="  ")
  return printed


def _cells(summary: dict[str, Any], phases: list[str]) -> list[str]:
  names = [summary[key] or "-" for key in ("data", "process", "method")]
  states = [_state(summary["phases"].get(phase)) for phase in phases]
  models = {m: x for m, x in summary["best"].items() if m in ("teacher", "student")}
  values = [f"{model} {_short(x['value'])} @ {x['nfe']}" for model, x in models.items()]
  lowest = f"{summary['metric']}: {', '.join(values)} NFE" if values else ""
  return [summary["run"], *names, *states, lowest]


def _state(phase: dict[str, Any] | None) -> str:
  if not phase:
    return "-"
  step, num_steps, state = phase["step"], phase["num_steps"], phase["state"]
  if num_steps is None:
    return state
  return f"{step} {state}" if state == "complete" else f"{step}/{num_steps} {state}"


def _short(value: float) -> str:
  return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
  cli.run(main)
