"""The house is built as CONTRIBUTING.md says: which way imports point, and how large a room is."""

import ast
import collections
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "dmmd_jax"
# What a room may import of the others; rooms that are not listed are only kept from circles.
ALLOWED = {
  "diffusion": {"parallel", "positions", "rules"},
  "networks": {"parallel"},
  "mmd": set(),
  "distillation": {"diffusion", "optimization", "positions", "rules"},
  "training": {
    "checkpoints", "data", "estimate", "parallel", "profile", "signals", "speed", "training_log",
  },
}  # fmt: skip
LONGEST = 300


def room(path):
  """A package below dmmd_jax, or a file of its own; commands stand above all of them."""
  parts = path.relative_to(PACKAGE).with_suffix("").parts
  return "commands" if parts[-1] == "__main__" else parts[0]


def imported(path):
  """Rooms that a file imports, anywhere in it."""
  names = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f"{node.module}.{alias.name}" for alias in node.names}
  ours = {name.split(".")[1] for name in names if name.startswith("dmmd_jax.")}
  return {name for name in ours if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}


@pytest.fixture(scope="module")
def imports():
  found = collections.defaultdict(set)
  for path in PACKAGE.rglob("*.py"):
    found[room(path)] |= imported(path) - {room(path)}
  return found


@pytest.mark.parametrize("name", ALLOWED)
def test_rooms_that_know_only_what_is_below(imports, name):
  assert imports[name] <= ALLOWED[name]


def test_no_circles(imports):
  left = dict(imports)
  while left:
    free = [name for name, below in left.items() if not below & left.keys()]
    assert free, f"these import each other: {left}"
    for name in free:
      del left[name]


def test_rooms_are_small():
  lines = {path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")}
  assert {path: n for path, n in lines.items() if n > LONGEST} == {}
