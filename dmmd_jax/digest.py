"""Digests of parameters, by which checkpoints and records tell one set of them from another."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

_LANES = 4


def digest(tree) -> str:
  """A checksum (32 hexadecimal digits) of a pytree of arrays: names, shapes, dtypes and values.

  Every bit counts. It is computed where the arrays are, from sums modulo 2^32, which are exact in
  any order: the same on any mesh and any number of processes (all of which have to call it). It
  tells damage and mix-ups; it does not resist forgery.
  """
  # One after the other: on CPU devices, several programs that wait for all of them can block each
  # other for want of threads.
  words = jax.tree.map(lambda x: np.asarray(_words(x), "<u4"), tree)
  total = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    total.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}\n".encode())
  for leaf in jax.tree.leaves(words):
    total.update(leaf.tobytes())
  return total.hexdigest()[:32]


@jax.jit
def _words(x: jax.Array) -> jax.Array:
  """uint32 `[4]`: sums of the words of `x`, each mixed with its place."""
  x = x.astype(jnp.uint8) if x.dtype == bool else x
  bits = jax.lax.bitcast_convert_type(x, jnp.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}"))
  bits = bits.astype(jnp.uint32)
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  lane = jnp.arange(_LANES, dtype=jnp.uint32).reshape(-1, *[1] * bits.ndim)
  mixed = _mix(bits ^ _mix(place * np.uint32(_LANES) + lane))
  return mixed.sum(range(1, mixed.ndim), dtype=jnp.uint32)


def _mix(h: jax.Array) -> jax.Array:
  """A bijection of uint32 in which every bit of the input moves every bit of the output."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
  return h
