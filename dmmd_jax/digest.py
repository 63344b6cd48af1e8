"""Digests of parameters, by which checkpoints and records tell one set of them from another."""

import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np

_LANES = 4
# Of smaller arrays the host adds up the words sooner than a program for their shape is compiled.
_ON_HOST = 2**18


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


def _words(x: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
  """uint32 `[4]`: sums of the words of `x`, each mixed with its place."""
  if x.size > _ON_HOST or not getattr(x, "is_fully_addressable", True):
    # Layers of a stack by turns: a CPU takes four times the memory of what is summed at once.
    x = jnp.asarray(x)
    is_stack = x.ndim > 2 and x.sharding.shard_shape(x.shape)[0] == len(x)
    return _words_of_stack(x) if is_stack else _words_of_array(x)
  x = np.ascontiguousarray(x)
  x = x.astype(np.uint8) if x.dtype == bool else x
  bits = x.reshape(-1).view(_word_type(x)).astype(np.uint32)
  return _sums(bits, np.arange(bits.size, dtype=np.uint32), np.arange(_LANES, dtype=np.uint32))


@jax.jit
def _words_of_stack(x: jax.Array) -> jax.Array:
  size = np.uint32(math.prod(x.shape[1:]) % 2**32)
  add = lambda total, layer: (total + _words_of_array(layer[0], layer[1] * size), None)
  layers = x, jnp.arange(len(x), dtype=jnp.uint32)
  return jax.lax.scan(add, jnp.zeros(_LANES, jnp.uint32), layers)[0]


@jax.jit
def _words_of_array(x: jax.Array, start: jax.Array | int = 0) -> jax.Array:
  x = x.astype(jnp.uint8) if x.dtype == bool else x
  bits = jax.lax.bitcast_convert_type(x, _word_type(x)).astype(jnp.uint32)
  place = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  return _sums(bits, place + start, jnp.arange(_LANES, dtype=jnp.uint32))


def _word_type(x: jax.Array | np.ndarray) -> np.dtype:
  return np.dtype(f"uint{8 * min(x.dtype.itemsize, 4)}")


def _sums(bits, place, lanes):
  """Of the words `bits` of any shape; an array of NumPy or of jax, as they are."""
  mixed = _mix(bits ^ _mix(place * np.uint32(_LANES) + lanes.reshape(-1, *[1] * bits.ndim)))
  return mixed.sum(tuple(range(1, mixed.ndim)), dtype=np.uint32)


def _mix(h):
  """A bijection of uint32 in which every bit of the input moves every bit of the output."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
    h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
  return h
