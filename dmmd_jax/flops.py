"""What a program computes, counted in its jaxpr without running it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend import core
from jax.interpreters import partial_eval


class Work(NamedTuple):
  """FLOPs of matrix products and convolutions, and bytes of all that they read and write.

  Of all devices. `kernels` are those of the FLOPs that are inside of Pallas kernels.
  """

  flops: float = 0.0
  bytes: float = 0.0
  kernels: float = 0.0

  def plus(self, other: "Work", times: int = 1) -> "Work":
    return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


def flops(function: Callable, *abstract_args) -> float:
  """FLOPs of the matrix products and convolutions of `function(*abstract_args)`.

  XLA's own analysis counts the body of a loop once; this counts it as often as it runs. What is
  computed again under remat counts again, what nothing depends on does not.
  """
  return work(function, *abstract_args).flops


def work(function: Callable, *abstract_args) -> Work:
  """`flops`, and the bytes of operands and results of the same operations."""
  return of_jaxpr(jax.make_jaxpr(function)(*abstract_args))


def of_jaxpr(closed: core.ClosedJaxpr) -> Work:
  """`work` of a function that has been traced; `ValueError` for a loop of unknown length."""
  jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
  return _work(jaxpr)


def _work(jaxpr: core.Jaxpr) -> Work:
  total = Work()
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated"):
      arrays = [x.aval for x in (*eqn.invars, *eqn.outvars)]
      total = total.plus(
        Work(2.0 * arrays[-1].size * _summed(name, params, *arrays[:2]), num_bytes(arrays))
      )
      continue
    inner = [_work(sub) for sub in core.jaxprs_in_params(params)]
    if name == "while" and any(w.flops for w in inner):
      raise ValueError("a while loop with matrix products: how often it runs is not known")
    if name == "cond":
      inner = [max(inner)]
    times = params["length"] if name == "scan" else 1
    if name == "shard_map":  # its body is what one device does
      times = params["mesh"].size
    if name == "pallas_call":
      times = math.prod(params["grid_mapping"].grid)
      inner = [one._replace(kernels=one.flops) for one in inner]
    for one in inner:
      total = total.plus(one, times)
  return total


def _summed(name: str, params: dict, left, right) -> float:
  """How many products are summed for one number of the result."""
  if name == "dot_general":
    (axes, _), _ = params["dimension_numbers"]
    return math.prod(left.shape[axis] for axis in axes)
  # Zeros put between the numbers of a strided convolution's gradient are not multiplied.
  features = right.shape[params["dimension_numbers"].rhs_spec[0]]
  return right.size / features / math.prod(params["lhs_dilation"])


def num_bytes(tree) -> int:
  """Of the arrays, abstract or not, of a tree."""
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
