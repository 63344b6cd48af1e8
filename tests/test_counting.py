"""Collectives of programs whose communication is known."""

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import counting
from tests.test_flops import BATCH, LAYERS, WIDTH, abstract, chain


def test_collectives_in_a_scan_count_as_often_as_it_runs():
  mesh = jax.make_mesh((8,), ("data",), (jax.sharding.AxisType.Auto,))
  split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
  step = jax.jit(jax.grad(chain), in_shardings=(whole, split), out_shardings=whole)
  args = abstract(LAYERS, WIDTH, WIDTH), abstract(BATCH, WIDTH)
  found = counting.collectives(step.lower(*args).compile().as_text(), 8)
  assert set(found) == {"all-reduce"}
  gradient = LAYERS * WIDTH * WIDTH * 4
  assert found["all-reduce"].sent == pytest.approx(2 * 7 / 8 * gradient)
  assert found["all-reduce"].count in (1, LAYERS)  # after the loop, or in it


LOOP = """HloModule jit_step, num_partitions=4

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %sums = (f32[2,3]{1,0}, /*index=1*/bf16[4]{0}) all-reduce(%x, %y), to_apply=%add
  %all = f32[8]{0} all-gather(%part), dimensions={0}
}

%condition (arg: (s32[], f32[8])) -> pred[] {
  ROOT %less = pred[] compare(%i, %n), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %one = f32[8]{0} all-gather(%part), dimensions={0}
  %w = (s32[], f32[8]) while(%init), condition=%condition, body=%body, BACKEND
}
"""


def test_bytes_of_tuples_and_trip_counts():
  known = LOOP.replace("BACKEND", 'backend_config={"known_trip_count":{"n":"12"}}')
  assert counting.collectives(known, 4) == {
    "all-gather": counting.Collectives(13, 13 * 32 * 3 / 4),
    "all-reduce": counting.Collectives(12, 12 * (24 + 8) * 2 * 3 / 4),
  }
  with pytest.raises(ValueError, match="unknown length"):
    counting.collectives(LOOP, 4)


def test_what_a_ring_sends():
  sent = {kind: counting.sent_bytes(kind, 1000.0, 4) for kind in ("all-reduce", "all-gather")}
  assert sent == {"all-reduce": 1500.0, "all-gather": 750.0}
  # A quarter of what is summed stays; all-reduce is reduce-scatter, then all-gather.
  assert counting.sent_bytes("reduce-scatter", 250.0, 4) == 750.0
