"""Arrays with an axis of the vocabulary, computed for a part of the positions at a time.

Logits of 1,024 positions and 50,257 tokens need more memory than all the rest of a network. The
predictions of networks are therefore `Deferred`, and losses, draws and metrics, which look at one
position at a time, are mapped over them.
"""

import math
from collections.abc import Callable
from typing import Any

import flax
import jax

from dmmd_jax import parallel

# Bytes on a device that a deferred array may take at a time; a step needs several of them.
_PART_BYTES = 1 << 28
# The `jax.ad_checkpoint.checkpoint_name` of what parts leave for their gradients, which compute all
# else again.
KEPT = "kept"


@flax.struct.dataclass
class Deferred:
  """The array `function(*arguments)`, `[B, positions, ...]`, to be computed in parts.

  Arguments are arrays `[B, positions, ...]` or `[B, positions / p, ...]`, themselves deferred or
  not, and arrays `[B]`. `function` has to treat equal parts of their second axis alike.
  """

  function: Callable[..., jax.Array] = flax.struct.field(pytree_node=False)
  arguments: tuple

  @property
  def shape(self) -> tuple[int, ...]:
    return self._abstract.shape

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self._abstract.dtype.itemsize

  @property
  def _abstract(self) -> jax.ShapeDtypeStruct:
    return jax.eval_shape(whole, self)


def whole(array: jax.Array | Deferred) -> jax.Array:
  """All of an array at once."""
  if isinstance(array, Deferred):
    return array.function(*(whole(argument) for argument in array.arguments))
  return array


def map_positions(function: Callable[..., Any], *arguments: Any) -> Any:
  """`function(*arguments)`, a pytree of arrays `[B, positions, ...]` without a vocabulary.

  Arguments are as those of a `Deferred`. Where a deferred one is large, `function` sees parts of
  the positions, one after the other; the gradient computes each part again.
  """

  def of_part(arguments):
    return function(*(whole(argument) for argument in arguments))

  leaves, structure = jax.tree.flatten(arguments)
  num_parts = _num_parts(arguments, leaves)
  if num_parts == 1:
    return of_part(arguments)

  def step(_, split):
    split = iter(split)
    parts = [next(split) if x.ndim > 1 else x for x in leaves]
    return None, of_part(structure.unflatten(parts))

  policy = jax.checkpoint_policies.save_only_these_names(KEPT)
  step = jax.checkpoint(step, prevent_cse=False, policy=policy)
  _, results = jax.lax.scan(step, None, [_split(x, num_parts) for x in leaves if x.ndim > 1])
  return jax.tree.map(_join, results)


def _num_parts(arguments: tuple, leaves: list[jax.Array]) -> int:
  """The fewest equal parts of which none is too large."""
  largest = max((x.nbytes for x in arguments if isinstance(x, Deferred)), default=0)
  if largest <= _PART_BYTES:
    return 1
  largest /= parallel.batch_shards()
  most = math.gcd(*(x.shape[1] for x in leaves if x.ndim > 1))
  parts = (n for n in range(1, most) if most % n == 0 and largest <= n * _PART_BYTES)
  return next(parts, most)


def _split(x: jax.Array, num_parts: int) -> jax.Array:
  """`[B, positions, ...]` to `[parts, B, positions / parts, ...]`."""
  return x.reshape(len(x), num_parts, -1, *x.shape[2:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  x = x.swapaxes(0, 1)
  return x.reshape(len(x), -1, *x.shape[3:])
