"""What a program sends between devices, counted in its HLO without running it."""

import collections
import math
import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" = (.+?) ({_KINDS})\(")
_ARRAY = re.compile(r"[a-z]+(\d*)[a-z\d]*\[([\d,]*)\]")


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
