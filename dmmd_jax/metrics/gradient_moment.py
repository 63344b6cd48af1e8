"""Gradient Moment (D-MMD, arXiv 2603.20155, section 5): how a reference model would have to change.

    GM = | E_samples grad L(x) - E_data grad L(x) |^2

over all parameters of a reference model with loss `L`, such as `-log p(x)` per token. It is 0 for
samples that are distributed as the data, and it is the MMD^2 of the kernel
`<grad L(x), grad L(y)>`.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Estimate(NamedTuple):
  """An estimate with its standard error (None where there is one pair only)."""

  value: float
  stderr: float | None


def gradient_moment(
  loss: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  samples: np.ndarray,
  data: np.ndarray | None,
  batch_size: int,
) -> Estimate:
  """The unbiased estimate (Eq. 14) of samples `[n, ...]` against data `[m, ...]`.

  `loss(params, batch)` is the mean loss of a batch. Pairs of independent minibatches of
  `batch_size` are streamed: two gradients are in memory, and the estimate, which may be negative,
  is the mean of the inner products. With `data=None` it is the uncentred moment
  `|E grad L(samples)|^2`. Raises `ValueError` with less than two minibatches.
  """
  num_pairs = min(len(samples), len(samples if data is None else data)) // (2 * batch_size)
  if num_pairs < 1:
    raise ValueError(
      f"{len(samples)} samples and {'no' if data is None else len(data)} data make no pair of"
      f" minibatches of {batch_size}; give more, or a smaller batch_size"
    )
  values = [
    float(pair_product(loss, params, *pair))
    for pair in _pairs(samples, data, batch_size, num_pairs)
  ]
  stderr = float(np.std(values, ddof=1) / np.sqrt(num_pairs)) if num_pairs > 1 else None
  return Estimate(float(np.mean(values)), stderr)


@functools.partial(jax.jit, static_argnums=0)
def pair_product(
  loss: Callable, params: Any, samples: jax.Array, data: jax.Array | None
) -> jax.Array:
  """`<g_1, g_2>` with `g_i = grad L(samples[i]) - grad L(data[i])`; both `[2, batch, ...]`."""

  def gap(samples, data):
    def difference(params):
      value = loss(params, samples)
      return value if data is None else value - loss(params, data)

    return jax.grad(difference)(params)

  # A loop: a large model is compiled once, and not for each half.
  gaps = jax.lax.map(lambda pair: gap(*pair), (samples, data))
  products = jax.tree.map(lambda g: jnp.vdot(g[0], g[1], precision="highest"), gaps)
  return sum(jax.tree.leaves(products))


def _pairs(samples, data, batch_size: int, num_pairs: int) -> Iterable[tuple]:
  for i in range(num_pairs):
    rows = slice(2 * batch_size * i, 2 * batch_size * (i + 1))
    yield tuple(
      None if x is None else jnp.asarray(x[rows]).reshape(2, batch_size, *x.shape[1:])
      for x in (samples, data)
    )
