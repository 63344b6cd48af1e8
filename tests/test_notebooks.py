"""Every notebook runs from top to bottom and shows what its text says."""

import json
import pathlib

import matplotlib
import pytest

NOTEBOOKS = pathlib.Path(__file__).parents[1] / "notebooks"


def run(name):
  """What is defined after all cells of a notebook have run."""
  matplotlib.use("Agg")
  cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
  defined = {}
  for cell in cells:
    if cell["cell_type"] == "code":
      assert not cell["outputs"], "outputs are not kept in git"
      exec("".join(cell["source"]), defined)
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
