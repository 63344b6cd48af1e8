"""Every notebook runs from top to bottom and shows what its text says."""

import json
import pathlib
import pickle
import re

from tests.conftest import QUICK

ROOT = pathlib.Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"


# Digits are learned in some hundreds of steps: that they run fast counts, too. With all
# optimisations they take twice as long, for the same numbers.
RUNS_FAST = (
  "--xla_backend_optimization_level=1 --xla_cpu_use_fusion_emitters=false"
  " --xla_cpu_parallel_codegen_split_count=1 --xla_llvm_disable_expensive_passes=true"
)


def run(programs, name, folder, *wanted, flags=QUICK, fields=(), **shorter):
  """Variables after all cells of a notebook have run, with some numbers of steps made less.

  And with other values of some `fields` of the config.
  """
  cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
  cells = [cell for cell in cells if cell["cell_type"] == "code"]
  assert not any(cell["outputs"] for cell in cells), "outputs are not kept in git"
  sources = ["".join(cell["source"]) for cell in cells]
  for phase, steps in shorter.items():
    line = rf"config\.{phase}\.num_steps = \d+"
    sources, counts = zip(
      *(re.subn(line, f"config.{phase}.num_steps = {steps}", x) for x in sources), strict=True
    )
    assert sum(counts) == 1, f"no cell sets the steps of {phase}"
  given = "".join(f"\nconfig.{field} = {value!r}" for field, value in dict(fields).items())
  sources = [
    re.sub(r"^config = .*get_config\(\)$", rf"\g<0>{given}", x, flags=re.M) for x in sources
  ]
  assert not given or any(given in x for x in sources), "no cell makes a config"
  (folder / "cells.json").write_text(json.dumps(sources))
  done = programs.run("tests.run_cells", (folder, *wanted), XLA_FLAGS=flags, MPLBACKEND="Agg")
  assert done.code == 0, done.err[-2000:]
  return pickle.loads((folder / "wanted.pickle").read_bytes())


def test_coins(programs, tmp_path):
  fewer = {"teacher.num_steps": 200, "distill.num_steps": 300}
  wrong, p_values, scores = run(
    programs, "coins.ipynb", tmp_path, "wrong_pairs", "p_values", "scores", fields=fewer
  )
  assert 0.45 < wrong["teacher, 1 NFE"] < 0.55
  assert 0.2 < wrong["teacher, 2 NFE"] < 0.3  # both are unmasked at once half of the time
  assert wrong["student, 1 NFE"] < 0.05
  assert p_values["teacher, 1 NFE", "Linear"] > 0.01
  assert p_values["teacher, 1 NFE", "Hamming"] < 0.01 < p_values["student, 1 NFE", "Hamming"]
  assert scores["each noise means a side"] < scores["independent coins"]
  assert scores["each noise means a side"] < scores["always the same side"]


def test_metrics(programs, tmp_path):
  found, p_values = run(programs, "metrics.ipynb", tmp_path, "found", "p_values")
  real, sharp = found["real text"], found["trigrams, temperature 0.5"]
  # What the text of the notebook says: perplexity is lower, everything else is worse.
  assert sharp["perplexity"] < real["perplexity"] and sharp["entropy"] < real["entropy"]
  for measure in ("Gradient Moment × 10⁶", "MMD² × 10³"):
    assert sharp[measure] > 10 * abs(real[measure])
  assert p_values["real text"] > 0.01 > p_values["trigrams"]


def test_digits(programs, tmp_path):
  small = {"network.width": 64, "network.depth": 2, "distill.updates": "joint"}
  (frechet,) = run(
    programs,
    "digits.ipynb",
    tmp_path,
    "frechet",
    flags=RUNS_FAST,
    fields=small,
    teacher=200,
    distill=40,
  )
  # What the text of the notebook says, as far as so short a training can show it.
  assert frechet["teacher", 32] < frechet["teacher", 4] < frechet["teacher", 1]
  assert frechet["student", 1] < 0.8 * frechet["teacher", 1]
  assert frechet["student", 4] < frechet["teacher", 4]


def test_your_method(programs, tmp_path):
  fewer = {"teacher.num_steps": 200}
  wrong, ones = run(programs, "your_method.ipynb", tmp_path, "wrong", "ones", fields=fewer)
  assert 0.45 < wrong["teacher"] < 0.55
  assert wrong["student"] < 0.05 and 0.35 < ones["student"] < 0.65
