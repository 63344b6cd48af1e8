"""The threshold of top-p, without a sort: by bisection, on TPUs in a kernel.

A sort of a large vocabulary would take more time on a TPU than all else in a step together, and a
bisection reads the probabilities 31 times. The kernel reads them once, and bisects in fast memory.
"""

import functools

import jax
import jax.numpy as jnp

from dmmd_jax import parallel
from dmmd_jax.diffusion import fast_memory


def smallest_kept(probs: jax.Array, top_p: float) -> jax.Array:
  """The smallest of probabilities float32 `[B, ..., K]` that top-p keeps, `[B, ..., 1]`.

  That is the least number above which there is less mass than `top_p`.
  """
  if fast_memory.is_there(probs):
    return parallel.split_examples(functools.partial(in_fast_memory, top_p=top_p), probs)
  return bisect(probs, top_p)


def bisect(probs: jax.Array, top_p: float) -> jax.Array:
  """`smallest_kept`, over all floats from 0 to 2, whose order is that of their bits."""

  def halve(_, bounds):
    low, high = bounds
    middle = low + (high - low) // 2
    threshold = jax.lax.bitcast_convert_type(middle, jnp.float32)
    above = jnp.where(probs > threshold, probs, 0.0).sum(-1, keepdims=True)
    return jnp.where(above < top_p, low, middle + 1), jnp.where(above < top_p, middle, high)

  low = jnp.zeros((*probs.shape[:-1], 1), jnp.int32)
  high = jnp.full_like(low, 0x40000000)  # 2.0
  _, found = jax.lax.fori_loop(0, 31, halve, (low, high))
  return jax.lax.bitcast_convert_type(found, jnp.float32)


def in_fast_memory(probs: jax.Array, top_p: float, interpret: bool = False) -> jax.Array:
  """`smallest_kept` on one TPU; `interpret` runs it on a CPU."""
  bisect_rows = lambda rows: bisect(rows[...], top_p)
  return fast_memory.map_rows(bisect_rows, probs, dtype=jnp.float32, interpret=interpret)
