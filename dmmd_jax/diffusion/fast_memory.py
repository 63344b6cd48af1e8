"""Rows of a large vocabulary in the fast memory of a TPU, where they are read once."""

import math
from collections.abc import Callable
from typing import Any

import jax

from dmmd_jax import parallel

# Categories from which on a kernel pays; the vector registers hold eight rows of 128.
LARGE, LANES = 1024, 128
_ROWS = 8
# Bytes of the rows that a kernel holds at a time, twice, as the next ones come in while it works.
_BLOCK_BYTES = 1 << 22


def is_there(array: jax.Array) -> bool:
  """Whether a kernel for rows of `array` `[..., K]` would run on a TPU, and pays."""
  return parallel.platform() == "tpu" and array.shape[-1] >= LARGE


def map_rows(
  function: Callable[..., jax.Array], *arrays: jax.Array, dtype: Any, interpret: bool = False
) -> jax.Array:
  """`[..., 1]` of arrays `[..., K]`, `[..., L]` …, on one TPU; `interpret` runs it on a CPU.

  `function` is given references to a few rows `[n, K]`, `[n, L]` …, and returns `[n, 1]`.
  """
  # Imported late: it takes a second, and only TPUs need it.
  from jax.experimental import pallas

  sizes = [array.shape[-1] for array in arrays]
  flat = [array.reshape(-1, array.shape[-1]) for array in arrays]
  rows = max(_BLOCK_BYTES // (4 * max(sizes)) // _ROWS, 1) * _ROWS

  def kernel(*references):
    *inputs, result = references
    result[...] = function(*inputs)

  result = pallas.pallas_call(
    kernel,
    out_shape=jax.ShapeDtypeStruct((len(flat[0]), 1), dtype),
    grid=(math.ceil(len(flat[0]) / rows),),
    in_specs=[pallas.BlockSpec((rows, size), lambda i: (i, 0)) for size in sizes],
    out_specs=pallas.BlockSpec((rows, 1), lambda i: (i, 0)),
    interpret=interpret,
  )(*flat)
  return result.reshape(*arrays[0].shape[:-1], 1)
