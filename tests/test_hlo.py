"""Programs whose operations, loops and communication are known."""

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import hlo
from tests.test_flops import BATCH, LAYERS, WIDTH, abstract, chain

LOOP = """HloModule jit_step, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: f32[8,4]) -> bf16[8,4] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %narrow = bf16[8,4]{1,0} convert(%p)
}

%inner (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %sums = (f32[2,3]{1,0}, /*index=1*/bf16[4]{0}) all-reduce(%x, %y), to_apply=%add
}

%inner_condition (arg: (s32[], f32[8])) -> pred[] {
  %limit = u32[]{:T(128)} constant(5)
  %other = s32[]{:T(128)} constant(7)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %all = f32[8]{0} all-gather(%part), dimensions={0}
  %near = f32[8,4]{1,0:T(8,128)S(1)} copy(%far), backend_config={"estimated_cycles":"30"}
  %cast = bf16[8,4]{1,0:T(8,128)(2,1)} fusion(%near), kind=kLoop, calls=%fused, CAST
  %w2 = (s32[], f32[8]) while(%init), condition=%inner_condition, body=%inner
}

%condition (arg: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %one = f32[8]{0} all-gather(%part), dimensions={0}
  %hint = s32[8]{0} custom-call(%one), custom_call_target="AssumeGatherIndicesInBound"
  %kernel = f32[8]{0} custom-call(%one), custom_call_target="tpu_custom_call"
  %w = (s32[], f32[8]) while(%init), condition=%condition, body=%body, BACKEND
}
"""
LOOP = LOOP.replace("CAST", 'metadata={op_name="jit(step)/cast"}, b={"estimated_cycles":"20"}')
KNOWN = LOOP.replace("BACKEND", 'backend_config={"known_trip_count":{"n":"12"}}')


def runs(text):
  return [(operation.kind, operation.runs) for operation in hlo.operations(text)]


def test_what_is_in_a_loop_runs_as_often_as_it_says_or_as_its_condition_allows():
  assert sorted(runs(KNOWN)) == [
    ("all-gather", 1),
    ("all-gather", 12),
    ("all-reduce", 60),
    ("copy", 12),
    ("custom-call", 1),
    ("fusion", 12),
  ]
  with pytest.raises(ValueError, match="unknown length"):
    hlo.operations(LOOP)


def test_an_operation_knows_what_it_reads_and_writes_and_what_is_fused():
  found = {operation.kind: operation for operation in hlo.operations(KNOWN)}
  fusion = found["fusion"]
  assert fusion.cycles == 20 and fusion.name == "jit(step)/cast"
  assert fusion.inside == {"parameter", "convert"}
  assert fusion.operands == (hlo.Array((8, 4), 128, False),)  # in fast memory
  assert fusion.results == (hlo.Array((8, 4), 64, True),)
  assert found["all-reduce"].cycles is None
  assert sum(x.num_bytes for x in found["all-reduce"].results) == 24 + 8


def test_the_collectives_of_a_compiled_scan():
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  step = jax.jit(jax.grad(chain), in_shardings=(whole, split), out_shardings=whole)
  args = abstract(LAYERS, WIDTH, WIDTH), abstract(BATCH, WIDTH)
  found = [
    x for x in hlo.operations(step.lower(*args).compile().as_text()) if x.kind in hlo.COLLECTIVES
  ]
  assert {x.kind for x in found} == {"all-reduce"}
  reduced = sum(x.runs * sum(array.num_bytes for array in x.results) for x in found)
  assert reduced == LAYERS * WIDTH * WIDTH * 4  # the gradient, after the loop or in it


def test_what_a_ring_sends():
  sent = {kind: hlo.sent_bytes(kind, 1000.0, 4) for kind in ("all-reduce", "all-gather")}
  assert sent == {"all-reduce": 1500.0, "all-gather": 750.0}
  # A quarter of what is summed stays; all-reduce is reduce-scatter, then all-gather.
  assert hlo.sent_bytes("reduce-scatter", 250.0, 4) == 750.0


def test_a_sort_moves_its_arrays_once_a_stage():
  """Beside what XLA's cost analysis for a v5e says of two argsorts of [1024, 50257]: 326 GB."""
  line = "  %s = (f32[1024,50257]{1,0}, s32[1024,50257]{1,0}) sort(%a, %b), dimensions={1}"
  text = f"ENTRY %main (x: f32[8]) -> f32[8] {{\n{line}\n}}\n"
  (operation,) = hlo.operations(text)
  assert 2 * hlo.sorted_bytes(operation) == pytest.approx(326e9, rel=0.15)


CHAIN = """%first (p: f32[8]) -> f32[32] {
  %p = f32[8]{0} parameter(0)
  %g = f32[32]{0} all-gather(%p), channel_id=7, dimensions={0}
}

%second (p: f32[8]) -> f32[32] {
  %p = f32[8]{0} parameter(0)
  %g = f32[32]{0} all-gather(%p), channel_id=7, dimensions={0}
  %h = f32[32]{0} all-gather(%p), channel_id=9, dimensions={0}
}

ENTRY %main (x: f32[8]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %a = f32[32]{0} fusion(%x), kind=kCustom, calls=%first, backend_config={"estimated_cycles":"5"}
  %b = f32[32]{0} fusion(%x), kind=kCustom, calls=%second, backend_config={"estimated_cycles":"5"}
  %s = (f32[8]{0}, f32[32]{0}) all-gather-start(%x), channel_id=11, dimensions={0}
  %d = f32[32]{0} all-gather-done(%s)
}
"""


def test_collectives_that_are_fused_with_other_work_count_once_a_channel():
  found = hlo.operations(CHAIN)
  gathers = [x for x in found if x.kind == "all-gather"]
  assert len(gathers) == 3 and len(found) == 5
  # What is asynchronous shows its operand among its results.
  assert {sum(array.num_bytes for array in x.results) for x in gathers} == {128}
