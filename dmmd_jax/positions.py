"""Arrays with an axis of the vocabulary, computed for a part of the positions at a time.

Logits of 1,024 positions and 50,257 tokens need more memory than all the rest of a network. The
predictions of networks are therefore `Deferred`, and losses, draws and metrics, which look at one
position at a time, are mapped over them.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from dmmd_jax import parallel

# Bytes on a device that a deferred array may take at a time; a step needs several of them.
_PART_BYTES = 1 << 29
# The `jax.ad_checkpoint.checkpoint_name` of what parts leave for their gradients, which compute all
# else again.
KEPT = "kept"


@flax.struct.dataclass
class Deferred:
  """The array `function(*arguments)`, `[B, positions, ...]`, to be computed in parts.

  Arguments are arrays `[B, positions, ...]` or `[B, positions / p, ...]`, themselves deferred or
  not, and arrays `[B]`; one that is the same for all examples may be `[1, ...]`. `function` has to
  treat equal parts of their second axis alike.
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
  parts = _Parts(function, arguments)
  if parts.number == 1:
    return parts.compute(parts.split)
  policy = jax.checkpoint_policies.save_only_these_names(KEPT)
  compute = jax.checkpoint(parts.compute, prevent_cse=False, policy=policy)
  _, results = jax.lax.scan(lambda _, part: (None, compute(part)), None, parts.split)
  return jax.tree.map(_join, results)


def mean_positions(function: Callable[..., tuple], *arguments: Any) -> tuple[tuple, Any]:
  """`(losses, values)`: means of the losses `[B, positions, ...]` of `function`, and its values.

  Arguments are as in `map_positions`, values as its results, but without a gradient. That of the
  losses is computed together with them, so that no part is computed twice.
  """
  parts = _Parts(function, arguments)
  if parts.number == 1:
    losses, values = parts.compute(parts.split)
    return tuple(loss.mean() for loss in losses), jax.lax.stop_gradient(values)

  def compute(part):
    losses, values = parts.compute(part)
    return tuple(loss.mean() / parts.number for loss in losses), values

  compute, closed = jax.closure_convert(compute, [x[0] for x in parts.split])
  return _mean_of_parts(compute, parts.split, closed)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _mean_of_parts(compute, split, closed):
  """Sums of the losses of `compute(part, *closed)` over the parts, and the values joined."""
  _, (losses, values) = jax.lax.scan(lambda _, x: (None, compute(x, *closed)), None, split)
  return tuple(x.sum() for x in losses), jax.tree.map(_join, values)


def _forward(compute, split, closed):
  """Keeps the gradients of every loss in what needs one, by its place among the arguments."""
  places = [i for i, x in enumerate([*split, *closed]) if x.perturbed]
  split, closed = [x.value for x in split], [x.value for x in closed]
  first_closed = len(split)

  def step(total, part):
    arrays = dict(enumerate([*part, *closed]))

    def losses_and_values(chosen):
      all_arrays = list((arrays | chosen).values())
      return compute(all_arrays[:first_closed], *all_arrays[first_closed:])

    chosen = {i: arrays[i] for i in places}
    losses, pullback, values = jax.vjp(losses_and_values, chosen, has_aux=True)
    gradients = [pullback(tuple(one))[0] for one in jnp.eye(len(losses))]
    of_part = [{i: g for i, g in one.items() if i < first_closed} for one in gradients]
    of_closed = [{i: g for i, g in one.items() if i >= first_closed} for one in gradients]
    return jax.tree.map(jnp.add, total, of_closed), (losses, values, of_part)

  num_losses = len(jax.eval_shape(compute, [x[0] for x in split], *closed)[0])
  zeros = {i: jnp.zeros_like(closed[i - first_closed]) for i in places if i >= first_closed}
  of_closed, (losses, values, of_parts) = jax.lax.scan(step, [zeros] * num_losses, split)
  gradients = [a | b for a, b in zip(of_parts, of_closed, strict=True)]
  result = tuple(x.sum() for x in losses), jax.tree.map(_join, values)
  return result, (gradients, first_closed, len(closed))


def _backward(compute, residuals, cotangents):
  gradients, num_split, num_closed = residuals
  total = {}
  for g, gradient in zip(cotangents[0], gradients, strict=True):
    if not isinstance(g, SymbolicZero):
      scaled = {i: (g * x).astype(x.dtype) for i, x in gradient.items()}
      total = {i: total[i] + x if i in total else x for i, x in scaled.items()}
  found = [total.get(i) for i in range(num_split + num_closed)]
  return found[:num_split], found[num_split:]


_mean_of_parts.defvjp(_forward, _backward, symbolic_zeros=True)


class _Parts:
  """Arguments of `function` in `number` parts, the fewest of which none is too large.

  `split` are the arrays `[parts, B, positions / parts, ...]` of all that has positions, or as they
  were for a single part; `compute` calls `function` with one of them.
  """

  def __init__(self, function: Callable[..., Any], arguments: tuple):
    self._function = function
    self._leaves, self._structure = jax.tree.flatten(arguments)
    self.split = [x for x in self._leaves if x.ndim > 1]
    self.number = _num_parts(arguments, self.split)
    if self.number > 1:
      self.split = [_split(x, self.number) for x in self.split]

  def compute(self, part: list[jax.Array]) -> Any:
    part = iter(part)
    leaves = [next(part) if x.ndim > 1 else x for x in self._leaves]
    return self._function(*(whole(x) for x in self._structure.unflatten(leaves)))


def _num_parts(arguments: tuple, split: list[jax.Array]) -> int:
  largest = max((x.nbytes for x in arguments if isinstance(x, Deferred)), default=0)
  if largest <= _PART_BYTES:
    return 1
  largest /= parallel.batch_shards()
  most = math.gcd(*(x.shape[1] for x in split))
  parts = (n for n in range(1, most) if most % n == 0 and largest <= n * _PART_BYTES)
  return next(parts, most)


def _split(x: jax.Array, num_parts: int) -> jax.Array:
  """`[B, positions, ...]` to `[parts, B, positions / parts, ...]`."""
  return x.reshape(len(x), num_parts, -1, *x.shape[2:]).swapaxes(0, 1)


def _join(x: jax.Array) -> jax.Array:
  """The inverse of `_split`."""
  x = x.swapaxes(0, 1)
  return x.reshape(len(x), -1, *x.shape[3:])
