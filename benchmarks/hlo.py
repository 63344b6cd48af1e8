"""What a compiled program does, read in its HLO: how often each operation runs, and what it costs.

The TPU compiler writes the cycles that it expects beside most operations. It writes none beside
sorts, custom calls and collectives, for which there are rooflines here.
"""

import collections
import math
import re
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([a-z][a-z\d\-]*)\((.*)$")
_CONTROLLED = re.compile(r"(?:body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_FUSED = re.compile(r"calls=%?([\w.\-]+)")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NAME = re.compile(r'op_name="([^"]*)"')
_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
_CHANNEL = re.compile(r"channel_id=(\d+)")
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_ARRAY = re.compile(r"\b([a-z]+)(\d*)[a-z\d]*\[([\d,]*)\](\{[^}]*\})?")
# Custom calls that only say something to the compiler.
_ANNOTATIONS = ("AssumeGatherIndicesInBound", "ConcatBitcast", "AllocateBuffer", "Sharding")
_WITHOUT_WORK = (
  "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "while",
)  # fmt: skip


class Array(NamedTuple):
  """An array of an HLO type; `in_memory` unless the compiler put it into a chip's fast memory."""

  shape: tuple[int, ...]
  num_bytes: int
  in_memory: bool


class Operation(NamedTuple):
  """An operation that the program runs `runs` times.

  `kind` is its opcode (an asynchronous one's without `-start`), `inside` the opcodes of what is
  fused, `name` the path of jax's names that it came from, `cycles` what the compiler expects of one
  run or None, `operands` and `results` what it reads and writes.
  """

  kind: str
  name: str
  runs: float
  cycles: int | None
  inside: frozenset[str]
  operands: tuple[Array, ...]
  results: tuple[Array, ...]
  text: str


def operations(hlo: str) -> list[Operation]:
  """All that a program runs; ValueError where a loop's length is not known."""
  computations, entry = _computations(hlo)
  shapes = {
    (name, found[1]): found[2]
    for name, lines in computations.items()
    for found in map(_OPERATION.match, lines)
    if found
  }
  found = []
  for name, runs in _runs(computations, entry).items():
    fused = {}  # collectives by channel: a chain of fusions does one, beside other work
    for line in computations[name]:
      operation = _OPERATION.match(line)
      if not operation or _is_idle(operation[3], line):
        continue
      found.append(_operation(computations, shapes, name, operation, line, runs))
      inside = _FUSED.search(line)
      for part in computations[inside[1]] if inside else ():
        hidden, channel = _OPERATION.match(part), _CHANNEL.search(part)
        if hidden and channel and hidden[3].removesuffix("-start") in COLLECTIVES:
          fused[channel[1]] = _operation(computations, shapes, inside[1], hidden, part, runs)
    found += fused.values()
  return found


def arrays(hlo_type: str) -> tuple[Array, ...]:
  """The arrays of an HLO type such as `f32[2,3]{1,0}` or a tuple."""
  found = []
  for kind, width, sizes, layout in _ARRAY.findall(hlo_type):
    shape = tuple(int(n) for n in sizes.split(",") if n)
    bits = int(width) if width else 8 if kind == "pred" else 0
    found.append(Array(shape, bits * math.prod(shape) // 8, "S(1)" not in (layout or "")))
  return tuple(found)


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


def sorted_bytes(operation: Operation) -> float:
  """Bytes that a sort moves: bitonic stages, each of which reads and writes all of its arrays."""
  axis = int(re.search(r"dimensions=\{(\d+)\}", operation.text)[1])
  size = operation.results[0].shape[axis]
  bits = max(math.ceil(math.log2(max(size, 2))), 1)
  stages = bits * (bits + 1) / 2
  return 2 * stages * sum(x.num_bytes for x in operation.results) * 2**bits / size


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
  computations, entry, name = collections.defaultdict(list), None, None
  for line in hlo.splitlines():
    if header := _COMPUTATION.match(line):
      name = header[2]
      entry = name if header[1] else entry
    elif name:
      computations[name].append(line)
  return computations, entry


def _runs(computations: dict[str, list[str]], entry: str) -> dict[str, float]:
  """How often each computation runs that is not a part of an operation."""
  runs = collections.Counter()
  todo = [(entry, 1)]
  while todo:
    name, times = todo.pop()
    runs[name] += times
    for line in computations[name]:
      found = _OPERATION.match(line)
      if not found or found[3] not in ("while", "call", "conditional"):
        continue
      inner = times * (_trips(computations, line) if found[3] == "while" else 1)
      called = _CONTROLLED.findall(line)
      for branches in _BRANCHES.findall(line):
        called += branches.replace("%", "").split(", ")
      todo += [(other, inner) for other in called]
  return runs


def _trips(computations: dict[str, list[str]], line: str) -> int:
  """How often a loop runs: as its compiler says, or up to the constant of its condition."""
  if known := _TRIPS.search(line):
    return int(known[1])
  condition = "\n".join(computations[_CONDITION.search(line)[1]])
  constants = dict(re.findall(r"%?([\w.\-]+) = [su]32\[\]\S* constant\((\d+)\)", condition))
  compared = re.search(r"compare\(([^)]*)\), direction=LT", condition)
  limits = [constants[n] for n in re.findall(r"[\w.\-]+", compared[1] if compared else "")
            if n in constants]  # fmt: skip
  if len(limits) != 1:
    raise ValueError(f"a loop of unknown length: {line.strip()[:200]}")
  return int(limits[0])


def _is_idle(kind: str, line: str) -> bool:
  if kind == "custom-call":
    return _TARGET.search(line)[1] in _ANNOTATIONS
  return kind in _WITHOUT_WORK or kind.endswith("-done")


def _operation(computations, shapes, computation, found, line, runs) -> Operation:
  _, result, kind, rest = found.groups()
  fused = _FUSED.search(line)
  inside = frozenset(
    m[3] for m in map(_OPERATION.match, computations[fused[1]] if fused else ()) if m
  )
  operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
  name, cycles = _NAME.search(line), _CYCLES.search(line)
  read = tuple(x for operand in operands for x in arrays(shapes.get((computation, operand), "")))
  written = arrays(result)
  return Operation(
    kind.removesuffix("-start"),
    name[1] if name else "",
    runs,
    int(cycles[1]) if cycles else None,
    inside,
    read,
    # An asynchronous one shows what it reads before what it writes.
    written[len(read) :] if kind in ("all-gather-start", "collective-permute-start") else written,
    line,
  )
