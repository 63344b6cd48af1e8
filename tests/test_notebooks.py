"""Every notebook runs from top to bottom and shows what its text says."""

import json
import pathlib
import re

import matplotlib
import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"


def run(name, **shorter):
  """What is defined after all cells of a notebook have run, some numbers of steps being less."""
  matplotlib.use("Agg")
  cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
  defined = {}
  for cell in cells:
    if cell["cell_type"] == "code":
      assert not cell["outputs"], "outputs are not kept in git"
      source = "".join(cell["source"])
      for phase in [phase for phase in shorter if f"config.{phase}.num_steps = " in source]:
        line = rf"config\.{phase}\.num_steps = \d+"
        source = re.sub(line, f"config.{phase}.num_steps = {shorter.pop(phase)}", source)
      exec(source, defined)
  assert not shorter, "no cell sets these numbers of steps"
  return defined


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
def test_coins():
  defined = run("coins.ipynb")
  wrong = defined["wrong_pairs"]
  assert 0.45 < wrong["teacher, 1 NFE"] < 0.55
  assert 0.2 < wrong["teacher, 2 NFE"] < 0.3  # both are unmasked at once half of the time
  assert wrong["student, 1 NFE"] < 0.05
  assert defined["p_values"]["teacher, 1 NFE", "Linear"] > 0.01
  assert defined["p_values"]["teacher, 1 NFE", "Hamming"] < 0.01
  scores = defined["scores"]
  assert scores["each noise means a side"] < scores["independent coins"]
  assert scores["each noise means a side"] < scores["always the same side"]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
def test_metrics():
  defined = run("metrics.ipynb")
  found, p_values = defined["found"], defined["p_values"]
  real, sharp = found["real text"], found["trigrams, temperature 0.5"]
  # What the text of the notebook says: perplexity is lower, everything else is worse.
  assert sharp["perplexity"] < real["perplexity"] and sharp["entropy"] < real["entropy"]
  for measure in ("Gradient Moment × 10⁶", "MMD² × 10³"):
    assert sharp[measure] > 10 * abs(real[measure])
  assert p_values["real text"] > 0.01 > p_values["trigrams"]


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg")
def test_digits():
  frechet = run("digits.ipynb", teacher=150, distill=30)["frechet"]
  # What the text of the notebook says, as far as so short a training can show it.
  assert frechet["teacher", 32] < frechet["teacher", 4] < frechet["teacher", 1]
  assert frechet["student", 1] < 0.8 * frechet["teacher", 1]
  assert frechet["student", 4] < frechet["teacher", 4]
