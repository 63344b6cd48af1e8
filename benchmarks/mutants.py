"""Mutants of a file: small mistakes made on purpose, by the operators of cosmic-ray."""

import ast
import dataclasses
import difflib
import functools
import hashlib
import pathlib
import random
import re
from collections.abc import Iterator

import parso
from cosmic_ray.operators.provider import OperatorProvider

# Other replacements say nothing about tests: a shift of floats is a TypeError at once, `is` in
# place of `==` is the same for short strings, `+x` is `x` without its sign.
_KINDS = {
  "ReplaceBinaryOperator": ({"Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow"},
                            {"BitOr", "BitAnd", "BitXor"}),
  "ReplaceComparisonOperator": ({"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"}, {"Is", "IsNot"}),
  "ReplaceUnaryOperator": ({"Delete", "USub"}, {"Delete", "Not"}, {"Delete", "Invert"}),
}  # fmt: skip
# Of those that need no two names; without a decorator a function is slower (`jit`, `cache`), or
# nothing works at all.
_SINGLE = {
  "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd",
  "ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "NumberReplacer",
  "ZeroIterationForLoop",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Mutant:
  """The mutation number `occurrence` that `operator` can make in the file `path`."""

  path: str
  line: int
  column: int
  operator: str
  occurrence: int

  @property
  def name(self) -> str:
    return f"{self.path}:{self.line}:{self.column} {self.operator}#{self.occurrence}"


def population(path: str) -> list[Mutant]:
  """All mutants of a file that change what its code does, as far as its syntax can tell.

  Not those in annotations, decorators, `__all__` and docstrings.
  """
  found = []
  for name, operator in _operators().items():
    for occurrence, (node, _, start) in enumerate(_places(parso.parse(_read(path)), operator)):
      if _is_code(node):
        found.append(Mutant(path, *start, name, occurrence))
  return sorted(found, key=lambda m: (m.line, m.column, m.operator, m.occurrence))


def sample(mutants: list[Mutant], size: int, seed: int) -> list[Mutant]:
  """A random draw without replacement of `size` mutants that compile to something else."""
  order = random.Random(seed).sample(mutants, len(mutants))
  drawn = []
  for mutant in order:
    if len(drawn) == size:
      break
    if _differs(_read(mutant.path), mutated(mutant)):
      drawn.append(mutant)
  return drawn


def mutated(mutant: Mutant) -> str:
  """The source of the file with the mutation made."""
  tree = parso.parse(_read(mutant.path))
  operator = _operators()[mutant.operator]
  for occurrence, (node, index, _) in enumerate(_places(tree, operator)):
    if occurrence == mutant.occurrence:
      siblings = node.parent.children
      siblings[siblings.index(node)] = operator.mutate(node, index)
      return tree.get_code()
  raise ValueError(f"{mutant.name} is not in the file as it is now")


def change(mutant: Mutant) -> str:
  """The lines that differ, as `before -> after`."""
  before, after = _read(mutant.path).splitlines(), mutated(mutant).splitlines()
  lines = list(difflib.unified_diff(before, after, lineterm="", n=0))[3:]
  removed, added = (" ".join(x[1:].strip() for x in lines if x[0] == sign) for sign in "-+")
  return f"{removed}  ->  {re.sub(' +', ' ', added)}"


def digest(*paths: str) -> str:
  """A short hash of the contents of files."""
  whole = hashlib.sha256()
  for path in sorted(paths):
    whole.update(pathlib.Path(path).read_bytes() + b"\0")
  return whole.hexdigest()[:16]


@functools.cache
def _operators() -> dict:
  provider = OperatorProvider()
  names = [name for name in provider if name in _SINGLE or _is_kind(name)]
  return {name: provider[name]() for name in names}


def _is_kind(name: str) -> bool:
  kind, *names = name.split("_")
  return any(set(names) <= group for group in _KINDS.get(kind, ()))


def _places(tree, operator) -> Iterator[tuple]:
  """Node, index of the mutation and start of all that an operator can do in a tree."""
  for node in _nodes(tree):
    for index, (start, _) in enumerate(operator.mutation_positions(node)):
      yield node, index, start


def _nodes(node) -> Iterator:
  yield node
  for child in getattr(node, "children", ()):
    yield from _nodes(child)


def _is_code(node) -> bool:
  while (parent := node.parent) is not None:
    if parent.type in ("param", "funcdef"):
      is_annotation = node is parent.annotation
    else:
      is_annotation = parent.type == "annassign" and node is parent.children[1]
    is_names = parent.type == "expr_stmt" and parent.children[0].get_code().strip() == "__all__"
    if is_annotation or is_names or parent.type == "decorator":
      return False
    node = parent
  return True


def _differs(before: str, after: str) -> bool:
  try:
    return ast.dump(ast.parse(before)) != ast.dump(ast.parse(after))
  except SyntaxError:
    return False


@functools.cache
def _read(path: str) -> str:
  return pathlib.Path(path).read_text(encoding="utf-8")
