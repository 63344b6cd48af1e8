"""What a run says at its end: its figures in short, and how to look at what it has left. No jax."""

import json
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Iterable

from etils import epath
from ml_collections import ConfigDict

from dmmd_jax.report import tables

_WIDTH = 100
_SHOWN = ("report.html", "results.md", "quality_vs_nfe.png", "samples_student.png", "samples.md")


def summary(config: ConfigDict, workdir: epath.Path) -> str:
  """The last lines of a run whose phases are complete."""
  lines, evaluate, python = [], workdir / "evaluate", _python()
  if "evaluate" in config.phases:
    lines += ["", *table(json.loads((evaluate / "results.json").read_text())), ""]
    there = [name for name in _SHOWN if (evaluate / name).exists()]
    lines.append(f"Results:  {evaluate}/ has {', '.join(there)}")
  else:
    lines.append(f"Models:   {', '.join(os.fspath(workdir / phase) for phase in config.phases)}")
  if config.run.tensorboard:
    lines.append(f"Curves:   {python} -m tensorboard.main --logdir={_quoted(workdir)}")
  if {"teacher", "distill"} & {*config.phases}:
    lines.append(f"Samples:  {python} -m dmmd_jax sample --workdir={_quoted(workdir)}")
  if "evaluate" in config.phases:
    lines.append(f"Compare:  {python} -m dmmd_jax compare {_quoted(workdir)} OTHER_WORKDIR")
  return "\n".join(lines)


def table(results: dict) -> list[str]:
  """Results of an evaluation in lines of at most 100 columns: per metric, a row for each model.

  `results` are those of `report.save_results`, whose table has errors and times, too.
  """
  rows = results["rows"]
  nfes = sorted({row["nfe"] for row in rows})
  models = list(dict.fromkeys(row["model"] for row in rows))
  cells = {(r["metric"], r["model"], r["nfe"]): _short(r["value"]) for r in rows}
  first = max(map(len, ["NFE", *models])) + 2
  width = max(map(len, [*cells.values(), *map(str, nfes)])) + 2
  in_line = (_WIDTH - first) // width
  lines = []
  for some in (nfes[i : i + in_line] for i in range(0, len(nfes), in_line)):
    lines.append(_line("NFE", map(str, some), first, width))
    for metric in dict.fromkeys(row["metric"] for row in rows):
      real = results["reference"].get(metric)
      of_real = f"; real data {_short(real[0])}" if real else ""
      lines.append(f"{tables.heading(metric)}{of_real}")
      for model in models:
        texts = [cells.get((metric, model, nfe), "") for nfe in some]
        lines += [_line(f"  {model}", texts, first, width)] if any(texts) else []
  for name, (bits, _) in results["bits_per_token"].items():
    split = results["split"].replace("_", "-")
    perplexity = _short(2.0**bits)
    lines.append(f"{name}: {bits:.3f} bits per token of the {split} split, perplexity {perplexity}")
  for name, made in results["inputs"].items():
    if not made.get("finished", True):
      lines.append(f"The {name} is not finished: measured at step {made['step']}")
  return lines


def _line(name: str, texts: Iterable[str], first: int, width: int) -> str:
  return (name.ljust(first) + "".join(text.rjust(width) for text in texts)).rstrip()


def _short(value: float) -> str:
  return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _python() -> str:
  """What starts this Python from the current folder."""
  here, cwd, known = pathlib.Path(sys.executable), pathlib.Path.cwd(), shutil.which("python")
  if known and pathlib.Path(known).parent == here.parent:
    return "python"
  return _quoted(here.relative_to(cwd) if here.is_relative_to(cwd) else here)


def _quoted(path: os.PathLike) -> str:
  return shlex.quote(os.fspath(path))
