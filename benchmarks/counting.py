"""What a program does, counted without running it: FLOPs in its jaxpr, collectives in its HLO."""

import collections
import math
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" = (.+?) ({_KINDS})\(")
_ARRAY = re.compile(r"[a-z]+(\d*)[a-z\d]*\[([\d,]*)\]")


class Work(NamedTuple):
  """FLOPs of matrix products and convolutions, and bytes of all that they read and write."""

  flops: float = 0.0
  bytes: float = 0.0

  def plus(self, other: "Work", times: int = 1) -> "Work":
    return Work(self.flops + times * other.flops, self.bytes + times * other.bytes)


def flops(function: Callable, *abstract_args) -> float:
  """FLOPs of the matrix products and convolutions of `function(*abstract_args)`.

  XLA's own analysis counts the body of a loop once; this counts it as often as it runs. What is
  computed again under remat counts again, what nothing depends on does not.
  """
  return work(function, *abstract_args).flops


def work(function: Callable, *abstract_args) -> Work:
  """`flops`, and the bytes of operands and results of the same operations."""
  closed = jax.make_jaxpr(function)(*abstract_args)
  jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
  return _work(jaxpr)


def _work(jaxpr: core.Jaxpr) -> Work:
  total = Work()
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated"):
      arrays = [x.aval for x in (*eqn.invars, *eqn.outvars)]
      total = total.plus(
        Work(2.0 * arrays[-1].size * _summed(name, params, *arrays[:2]), num_bytes(arrays))
      )
      continue
    inner = [_work(sub) for sub in core.jaxprs_in_params(params)]
    if name == "while" and any(w.flops for w in inner):
      raise ValueError("a while loop with matrix products: how often it runs is not known")
    if name == "cond":
      inner = [max(inner)]
    for one in inner:
      total = total.plus(one, params["length"] if name == "scan" else 1)
  return total


def _summed(name: str, params: dict, left, right) -> float:
  """How many products are summed for one number of the result."""
  if name == "dot_general":
    (axes, _), _ = params["dimension_numbers"]
    return math.prod(left.shape[axis] for axis in axes)
  # Zeros put between the numbers of a strided convolution's gradient are not multiplied.
  features = right.shape[params["dimension_numbers"].rhs_spec[0]]
  return right.size / features / math.prod(params["lhs_dilation"])


class Collectives(NamedTuple):
  """How often one kind runs, and the bytes that each device sends."""

  count: int
  sent: float


def collectives(hlo: str, devices: int) -> dict[str, Collectives]:
  """The collectives of a compiled program, by kind; those in a loop as often as it runs."""
  lines = collections.defaultdict(list)
  name = entry = None
  for line in hlo.splitlines():
    if header := _COMPUTATION.match(line):
      name = header[2]
      entry = name if header[1] else entry
    lines[name].append(line)
  total = collections.defaultdict(lambda: Collectives(0, 0.0))
  runs = collections.Counter({entry: 1})
  # A computation stands above those that call it.
  for name in reversed(lines):
    for line in lines[name][1:]:
      called, times = _CALLED.findall(line), 1
      if " while(" in line:
        trips = _TRIPS.search(line)
        times = int(trips[1]) if trips else math.nan
      for branches in _BRANCHES.findall(line):
        called += branches.replace("%", "").split(", ")
      for other in called:
        runs[other] += runs[name] * times
      if found := _COLLECTIVE.search(line):
        shape, kind = found.groups()
        count, sent = total[kind]
        sent += runs[name] * sent_bytes(kind, _shape_bytes(shape), devices)
        total[kind] = Collectives(count + runs[name], sent)
  if any(math.isnan(count) for count, _ in total.values()):
    raise ValueError("a collective in a loop of unknown length")
  return dict(total)


def _shape_bytes(shape: str) -> int:
  """Bytes of an HLO shape such as `f32[2,3]{1,0}`, or of a tuple of them."""
  bits = (
    int(width or 8) * math.prod(int(n) for n in sizes.split(",") if n)
    for width, sizes in _ARRAY.findall(shape)
  )
  return sum(bits) // 8


def sent_bytes(kind: str, result: float, devices: int) -> float:
  """Bytes that each device sends for a collective with a result of so many, around a ring."""
  others = devices - 1
  return (
    result
    * {
      "all-reduce": 2 * others / devices,
      "all-gather": others / devices,
      "reduce-scatter": others,  # a result is one part of what is summed
      "all-to-all": others / devices,
      "collective-permute": 1,
    }[kind]
  )


def num_bytes(tree) -> int:
  """Of the arrays, abstract or not, of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
