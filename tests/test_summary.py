"""The last lines of a run."""

import json
import sys

from configs import digits_dmmd, toy_dmmd
from dmmd_jax.summary import summary, table
from tests.report.example import RESULTS, row


def test_a_table_has_a_row_for_each_model_and_the_figures_of_real_data():
  assert table(RESULTS) == [
    "NFE            1      2      8",
    "Fréchet distance to held-out data (classifier features; lower is better); real data 0.500",
    "  teacher          12.3   1.00",
    "  student   3.50",
    "Mean entropy of the predictions (nats per position)",
    "  student  0.250",
    "Teacher (upper bound): 2.346 bits per token of the held-out split, perplexity 5.08",
    "The student is not finished: measured at step 7",
  ]


def test_a_wide_table_is_in_parts_of_a_hundred_columns():
  nfes = [2**i for i in range(20)]
  rows = [row("teacher", nfe, "perplexity", -1e-5 / nfe, 0.1) for nfe in nfes]
  rows += [row("student", 1, "perplexity", 1234.5, None)]
  lines = table(RESULTS | {"rows": rows, "reference": {}, "inputs": {}, "bits_per_token": {}})
  assert max(map(len, lines)) <= 100
  heads = [line.split()[1:] for line in lines if line.startswith("NFE")]
  assert len(heads) > 1 and " ".join(map(" ".join, heads)).split() == [*map(str, nfes)]
  values = [line.split()[1:] for line in lines if line.startswith("  teacher")]
  assert [len(row) for row in values] == [len(row) for row in heads]
  assert [line for line in lines if "student" in line] == ["  student       1234"]


def test_the_last_lines_name_what_is_there(tmp_path, monkeypatch):
  monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
  monkeypatch.chdir(tmp_path)
  workdir = tmp_path / "my run"
  (workdir / "evaluate").mkdir(parents=True)
  (workdir / "evaluate" / "results.json").write_text(json.dumps(RESULTS))
  (workdir / "evaluate" / "results.md").touch()
  config = digits_dmmd.get_config()
  assert summary(config, workdir).splitlines()[-4:] == [
    f"Results:  {workdir}/evaluate/ has results.md",
    f"Curves:   .venv/bin/python -m tensorboard.main --logdir='{workdir}'",
    f"Samples:  .venv/bin/python -m dmmd_jax sample --workdir='{workdir}'",
    f"Compare:  .venv/bin/python -m dmmd_jax compare '{workdir}' OTHER_WORKDIR",
  ]
  config = toy_dmmd.get_config()
  config.phases, config.run.tensorboard = ("reference",), False
  assert summary(config, workdir) == f"Models:   {workdir}/reference"
