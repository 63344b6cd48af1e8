"""A method is added as docs/methods.md says: one file, one line, one config, nothing else."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from tests.conftest import ONE_DEVICE

ROOT = pathlib.Path(__file__).parents[1]
BEFORE = '  "continued": "continued.Continued",\n'


def notebook_method() -> str:
  """The cell of the notebook that writes a method, below the imports that it needs."""
  cells = json.loads((ROOT / "notebooks" / "your_method.ipynb").read_text())["cells"]
  sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
  (method,) = (source for source in sources if "class BestOfNoises:" in source)
  used = {node.id for node in ast.walk(ast.parse(method)) if isinstance(node, ast.Name)}
  lines = []
  for node in ast.parse(sources[0]).body:
    names = {(name.asname or name.name).split(".")[0] for name in node.names}
    lines += [ast.unparse(node)] if names & used else []
  return "\n".join(lines) + "\n" + method


def documented(start: str, end: str) -> str:
  """The indented block of docs/methods.md between two of its phrases."""
  text = (ROOT / "docs" / "methods.md").read_text()
  start = r"\s+".join(map(re.escape, start.split()))
  block = re.search(f"{start}\n+(.*?)\n+{re.escape(end)}", text, re.DOTALL)[1]
  return "".join(f"{line.removeprefix('    ')}\n" for line in block.split("\n"))


def test_one_file_one_line_and_one_config_make_a_method(tmp_path):
  for folder in ("dmmd_jax", "configs"):
    shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
  package = tmp_path / "dmmd_jax" / "distillation"
  (package / "best_of_noises.py").write_text(notebook_method())
  registry = (package / "registry.py").read_text()
  line = documented("a line in `registry.py`,", "a config,")
  assert BEFORE in registry and line.count("\n") == 1
  (package / "registry.py").write_text(registry.replace(BEFORE, BEFORE + line))
  config = documented("`configs/coins_best_of_noises.py`,", "and a test")
  (tmp_path / "configs" / "coins_best_of_noises.py").write_text(config)

  done = subprocess.run(
    [
      sys.executable, "-m", "dmmd_jax.main", "--config=configs/coins_best_of_noises.py",
      "--workdir=run", "--config.teacher.num_steps=200", "--config.distill.num_steps=300",
      "--config.distill.best_of_noises.num_noises=6", "--config.evaluate.teacher_nfe=(1,)",
      "--config.evaluate.student_nfe=(1,)", "--config.evaluate.brief=True",
    ],
    cwd=tmp_path,
    env=os.environ | ONE_DEVICE,
    capture_output=True,
    text=True,
    timeout=300,
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  config = json.loads((tmp_path / "run" / "distill" / "config.json").read_text())["config"]
  assert config["distill"]["best_of_noises"] == {"num_noises": 6}
  rows = json.loads((tmp_path / "run" / "evaluate" / "results.json").read_text())["rows"]
  wrong = {
    row["model"]: row["value"] for row in rows if (row["metric"], row["nfe"]) == ("impossible", 1)
  }
  assert wrong["student"] < 0.2 and 0.45 < wrong["teacher"] < 0.55
