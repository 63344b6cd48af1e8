"""Where the time and memory of a compiled program go, by the compiler's own account."""

import collections
from typing import Any, NamedTuple

from benchmarks import hlo
from benchmarks.topologies import Chip

# Names in the paths of operations, of `jax.named_scope`, modules and functions of jax, and the part
# of a step that each is.
_SCOPES = {
  "attention": "attention",
  "vocabulary": "vocabulary",
  "logits": "vocabulary",
  "wte.attend": "vocabulary",
  "log_softmax": "vocabulary",
  "_gumbel": "vocabulary",
  "argmax": "vocabulary",
  "optimizer": "optimiser",
}
_RANDOM = ("random_bits", "threefry", "_uniform", "rng-bit-generator")
_MOVES = {
  "copy", "transpose", "reshape", "bitcast", "convert", "slice", "pad", "concatenate",
  "broadcast", "parameter", "tuple", "get-tuple-element", "constant", "dynamic-slice",
  "dynamic-update-slice", "iota", "select", "compare", "and", "bitcast-convert",
}  # fmt: skip
PARTS = (
  "attention", "other matrix products", "vocabulary", "optimiser", "noise and random numbers",
  "copies and converts", "other elementwise", "sorts", "custom calls", "collectives",
)  # fmt: skip


class Costs(NamedTuple):
  """Seconds of a program on one device.

  `parts` has all of them; `uncounted` are those in which the compiler has no say, estimated from
  what sorts, custom calls and collectives move. `sent` is how often each kind of collective runs,
  and what it sends.
  """

  parts: dict[str, float]
  uncounted: float
  sent: dict[str, tuple[float, float]]

  @property
  def seconds(self) -> float:
    return sum(self.parts.values())


def costs(
  operations: list[hlo.Operation], chip: Chip, devices: int, kernel_flops: float = 0.0
) -> Costs:
  """What `operations` take on a chip of `devices`, of whose FLOPs kernels do `kernel_flops`."""
  parts, sent, uncounted = collections.Counter(), {}, 0.0
  for operation in operations:
    seconds = operation.runs * seconds_of(operation, chip, devices)
    parts[part_of(operation)] += seconds
    if not _is_counted(operation):
      uncounted += seconds
    if operation.kind in hlo.COLLECTIVES:
      count, before = sent.get(operation.kind, (0, 0.0))
      sent[operation.kind] = count + operation.runs, before + seconds * chip.link
  # Kernels that multiply take that time at least, or that of what they move.
  multiplying = max(kernel_flops / chip.flops - parts["custom calls"], 0.0)
  parts["custom calls"] += multiplying
  uncounted += multiplying
  return Costs({part: parts[part] for part in PARTS}, uncounted, sent)


def seconds_of(operation: hlo.Operation, chip: Chip, devices: int) -> float:
  """What one run of an operation takes: by the compiler's cycles, or by what it has to move."""
  if _is_counted(operation):
    return operation.cycles / chip.clock
  if operation.kind in hlo.COLLECTIVES:
    result = sum(x.num_bytes for x in operation.results)
    return hlo.sent_bytes(operation.kind, result, devices) / chip.link
  if operation.kind == "sort":
    return hlo.sorted_bytes(operation) / chip.bandwidth
  if f"{operation.kind}-start(" in operation.text:
    return 0.0  # a copy on its way while something else is computed
  arrays = (*operation.operands, *operation.results)
  return sum(x.num_bytes for x in arrays if x.in_memory) / chip.bandwidth


def _is_counted(operation: hlo.Operation) -> bool:
  return operation.cycles is not None and operation.kind not in ("sort", *hlo.COLLECTIVES)


def costliest(operations: list[hlo.Operation], chip: Chip, devices: int, num: int) -> list[dict]:
  """The operations that take most of the time, each with its part, kind, runs and jax's name."""
  found = [(x.runs * seconds_of(x, chip, devices), x) for x in operations]
  found.sort(key=lambda pair: -pair[0])
  return [
    {
      "seconds": seconds,
      "part": part_of(x),
      "kind": x.kind,
      "runs": x.runs,
      "results": [
        f"{list(array.shape)}{'' if array.in_memory else ' near'}" for array in x.results
      ],
      "name": x.name,
    }
    for seconds, x in found[:num]
  ]


def part_of(operation: hlo.Operation) -> str:
  """One of `PARTS`."""
  kind, inside = operation.kind, operation.inside
  if kind in hlo.COLLECTIVES:
    return "collectives"
  if kind == "sort":
    return "sorts"
  if kind == "custom-call":
    return "custom calls"
  if kind in _MOVES or (kind == "fusion" and inside <= _MOVES):
    return "copies and converts"
  names = operation.name.replace("(", "/").replace(")", "/").split("/")
  for scope, part in _SCOPES.items():
    if scope in names:
      return part
  if "convolution" in inside or "dot" in inside or kind in ("convolution", "dot"):
    return "other matrix products"
  if any(random in operation.name for random in _RANDOM):
    return "noise and random numbers"
  return "other elementwise"


def largest(operations: list[hlo.Operation], sizes: set[int]) -> int:
  """Bytes of the largest array in a device's memory with an axis of one of `sizes`."""
  found = (
    x.num_bytes
    for operation in operations
    for x in (*operation.operands, *operation.results)
    if x.in_memory and sizes & set(x.shape)
  )
  return max(found, default=0)


def memory(compiled: Any) -> int:
  """Bytes that a program needs at its peak."""
  m = compiled.memory_analysis()
  held = m.argument_size_in_bytes + m.output_size_in_bytes - m.alias_size_in_bytes
  return getattr(m, "peak_memory_in_bytes", 0) or held + m.temp_size_in_bytes
