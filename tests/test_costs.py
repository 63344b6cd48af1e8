"""Costs of operations that are made by hand."""

import pytest

from benchmarks import costs, hlo, topologies

CHIP = topologies.Chip(flops=1e12, clock=1e9, memory=1e9, bandwidth=1e9, link=1e8)
HERE, FAR = hlo.Array((100,), 400, False), hlo.Array((1000, 250), 10**6, True)


def operation(kind, name="", cycles=None, inside=(), runs=1, operands=(), results=(), text=""):
  return hlo.Operation(
    kind, name, runs, cycles, frozenset(inside), tuple(operands), tuple(results), text
  )


@pytest.mark.parametrize(
  ("part", "found"),
  [
    ("attention", operation("fusion", "jit(step)/layers/attention/dot", 1, {"convolution"})),
    ("attention", operation("fusion", "jvp(x)/transpose(jvp(attention))/mul", 1, {"multiply"})),
    ("other matrix products", operation("fusion", "layers/qkv/dot_general", 1, {"convolution"})),
    ("vocabulary", operation("fusion", "jvp(Transformer)/logits/dot_general", 1, {"convolution"})),
    ("vocabulary", operation("fusion", "jit(step)/vocabulary/exp", 1, {"exponential"})),
    ("optimiser", operation("fusion", "jit(step)/optimizer/mul", 1, {"multiply"})),
    ("noise and random numbers", operation("xor", "jit(_uniform)/xor", 1)),
    ("copies and converts", operation("fusion", "attention/transpose", 1, {"copy", "bitcast"})),
    ("copies and converts", operation("copy", "", 1)),
    ("other elementwise", operation("fusion", "layers/gelu", 1, {"tanh", "multiply"})),
    ("sorts", operation("sort", "vocabulary/sort")),
    ("custom calls", operation("custom-call", "attention/pallas_call")),
    ("collectives", operation("all-gather", "layers/qkv")),
  ],
)
def test_every_operation_is_of_one_part(part, found):
  assert costs.part_of(found) == part


def test_counted_and_uncounted_seconds():
  found = costs.costs(
    [
      operation("fusion", "logits/dot", 10**6, {"convolution"}, runs=12),  # 12 ms
      operation("all-reduce", runs=3, results=[FAR]),  # each sends 1.5 MB
      operation("custom-call", runs=2, operands=[FAR, HERE], results=[FAR]),  # each moves 2 MB
      operation("copy", text="copy-start(%x)", results=[FAR]),  # beside something else
    ],
    CHIP,
    devices=4,
  )
  seconds = {part: x for part, x in found.parts.items() if x}
  assert seconds == pytest.approx({"vocabulary": 12e-3, "collectives": 45e-3, "custom calls": 4e-3})
  assert found.uncounted == pytest.approx(49e-3)
  assert found.seconds == pytest.approx(61e-3)
  assert found.sent == {"all-reduce": (3, 4.5e6)}


def test_a_kernel_takes_the_time_of_its_flops_or_of_its_bytes():
  kernel = [operation("custom-call", operands=[FAR], results=[FAR])]  # 2 ms for its bytes
  for flops, seconds in ((1e9, 2e-3), (5e9, 5e-3)):
    found = costs.costs(kernel, CHIP, 1, flops)
    assert found.parts["custom calls"] == found.uncounted == pytest.approx(seconds)


def test_a_sort_is_not_free_though_the_compiler_says_so():
  (found,) = hlo.operations(
    "ENTRY %main (x: f32[8]) -> f32[8] {\n"
    '  %s = f32[1024,1024]{1,0} sort(%a), dimensions={1}, b={"estimated_cycles":"1"}\n}\n'
  )
  spent = costs.costs([found], CHIP, 1)
  assert spent.seconds == spent.parts["sorts"] == spent.uncounted > 0.1


def test_the_largest_array_is_one_in_memory_with_such_an_axis():
  found = [operation("fusion", operands=[FAR], results=[hlo.Array((250, 9), 10**9, False)])]
  assert costs.largest(found, {250}) == 10**6
  assert costs.largest(found, {251}) == 0
