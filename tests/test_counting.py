import functools

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from benchmarks import counting
from benchmarks.counting import flops

LAYERS, BATCH, WIDTH = 5, 8, 16


def chain(weights, x, remat=False):
  """`LAYERS` products of `[BATCH, WIDTH]` with `[WIDTH, WIDTH]` under one scan."""
  layer = lambda h, w: (jnp.tanh(h @ w), None)
  layer = jax.checkpoint(layer) if remat else layer
  return jnp.square(jax.lax.scan(layer, x, weights)[0]).sum()


def abstract(*shape, dtype=jnp.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def test_a_scan_of_products_counts_as_often_as_it_runs_and_remat_again():
  args = abstract(LAYERS, WIDTH, WIDTH), abstract(BATCH, WIDTH)
  forward = LAYERS * 2 * BATCH * WIDTH * WIDTH
  again = functools.partial(chain, remat=True)
  assert flops(chain, *args) == forward
  assert flops(jax.jit(jax.grad(chain)), *args) == 3 * forward
  assert flops(jax.jit(jax.grad(again)), *args) == 4 * forward


def test_convolutions_with_stride_and_their_gradients():
  def convolve(kernel, x, stride):
    y = jax.lax.conv_general_dilated(
      x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.square(y).sum()

  args = abstract(3, 3, 4, 6), abstract(2, 8, 8, 4)
  for stride in (1, 2):
    forward = 2 * 2 * (8 // stride) ** 2 * 6 * 3 * 3 * 4
    of_stride = functools.partial(convolve, stride=stride)
    assert flops(of_stride, *args) == forward
    assert flops(jax.grad(of_stride, (0, 1)), *args) == 3 * forward


def test_branches_count_once_and_what_is_not_used_not_at_all():
  def either(x, which):
    unused = x @ x
    del unused
    return jax.lax.cond(which, lambda: x @ x @ x, lambda: x @ x)

  assert flops(either, abstract(4, 4), abstract(dtype=bool)) == 2 * 2 * 4**3


def test_a_loop_of_unknown_length_is_an_error():
  until_small = lambda x: jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x @ x, x)
  with pytest.raises(ValueError, match="how often"):
    flops(until_small, abstract(4, 4))


def test_bytes_are_those_of_operands_and_results():
  done = counting.work(jnp.matmul, abstract(4, 8, dtype=jnp.bfloat16), abstract(8, 2))
  assert done.bytes == 2 * (4 * 8) + 4 * (8 * 2) + 4 * (4 * 2)


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
