"""FLOPs and bytes of programs whose work is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from dmmd_jax.flops import flops, work
from dmmd_jax.networks import attention

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
  done = work(jnp.matmul, abstract(4, 8, dtype=jnp.bfloat16), abstract(8, 2))
  assert done.bytes == 2 * (4 * 8) + 4 * (8 * 2) + 4 * (4 * 2)


def test_a_kernel_runs_as_often_as_its_grid_says():
  q = abstract(2, 4, 64, 256)
  splash = lambda q, k, v: attention.splash(q, k, v, None)
  found = work(splash, q, q, q)
  # Scores and their products with values, for two examples and four heads.
  assert found.kernels == found.flops == 2 * 2 * 4 * 2 * 256 * 256 * 64
  assert work(lambda q: q @ q, abstract(8, 8)).kernels == 0


def test_what_each_device_does_counts_for_all_of_them():
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
  product = jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))
  args = abstract(8 * BATCH, WIDTH), abstract(WIDTH, WIDTH)
  assert flops(product, *args) == flops(jnp.matmul, *args)
