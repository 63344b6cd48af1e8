"""Estimators of `MMD^2(P, Q) = E k(x, x') + E k(y, y') - 2 E k(x, y)` with their standard errors.

Both samples are pooled, and each pair of blocks of the pooled sample is visited once: memory is
`O(block^2)`, and pairs of blocks are shared out among the devices of a mesh.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from dmmd_jax.mmd.kernels import Hamming, Kernel


class MMD2(NamedTuple):
  """An estimate of MMD^2, its standard error, and the three mean kernel values it is made of."""

  value: float
  stderr: float
  within_x: float
  within_y: float
  between: float


class GramSums(NamedTuple):
  """Sums over the Gram matrix of a pooled sample of `N`, pairs of an item with itself left out.

  `rows` `[N, 2]`: over all columns that are in x, and over those in y. `diagonal` `[N]`: the items
  with themselves. `squares` `[2, 2]`: squared values by group of row and of column. `quadratic`
  `[P]`: `u^T K u` for each of `P` ways `u` to choose half of the pool.
  """

  rows: np.ndarray
  diagonal: np.ndarray
  squares: np.ndarray
  quadratic: np.ndarray


def mmd2(
  x: np.ndarray,
  y: np.ndarray,
  kernel: Kernel = Hamming(),  # noqa: B008 (a frozen value)
  estimator: str = "unbiased",
  mesh: Mesh | None = None,
  block_size: int = 1024,
) -> MMD2:
  """Estimates MMD^2 between samples `x` `[n, ...]` and `y` `[m, ...]` of sequences or features.

  `unbiased` leaves out each item's pair with itself and can be negative; `biased` is the squared
  distance of the samples' mean embeddings, never negative. The standard error holds for unequal
  distributions, where the estimate is nearly normal, and for equal ones, where its first-order
  term vanishes. Memory is `O(block_size^2)`; work is split over all devices of `mesh`, by default
  over one. Sums are of float32 blocks: errors are about 1e-7 of the largest term. Raises
  `ValueError` for shapes, dtypes and values that are not two samples of one kind.
  """
  if estimator not in ("unbiased", "biased"):
    raise ValueError(f"estimator is {estimator!r}; expected 'unbiased' or 'biased'")
  x, y = check_samples(x, y, kernel)
  sums = gram_sums(np.concatenate([x, y]), len(x), kernel, mesh=mesh, block_size=block_size)
  return estimate(sums, len(x), estimator)


def mmd2_to(y: np.ndarray, kernel: Kernel, block_size: int = 1024) -> Callable[[np.ndarray], float]:
  """`estimate(x)`, the unbiased value of `mmd2(x, y, kernel)`, for many samples against one.

  The pairs within `y` `[m, ...]`, most of them where `y` is the larger sample, are visited once.
  What the kernel leaves open it takes from `y` alone. Raises `ValueError` as `mmd2` does.
  """
  kernel = kernel.fit(y.reshape(len(y), -1))
  within_y = _mean_within(check_samples(y, y, kernel)[0], kernel, block_size)

  def estimate(x: np.ndarray) -> float:
    flat_x, flat_y = check_samples(x, y, kernel)
    kernel.fit(flat_x)  # refuses tokens that it does not know
    between = _mean_between(flat_x, flat_y, kernel, block_size)
    return _mean_within(flat_x, kernel, block_size) + within_y - 2.0 * between

  return estimate


def _mean_within(x: np.ndarray, kernel: Kernel, block_size: int) -> float:
  sums = gram_sums(x, len(x), kernel, block_size=block_size)
  return float(sums.rows[:, 0].sum() / (len(x) * (len(x) - 1)))


def _mean_between(x: np.ndarray, y: np.ndarray, kernel: Kernel, block_size: int) -> float:
  blocks = [np.array_split(z, -(-len(z) // block_size)) for z in (x, y)]
  sums = [_row_sums(kernel, *pair) for pair in itertools.product(*blocks)]
  return sum(np.asarray(rows, np.float64).sum() for rows in sums) / (len(x) * len(y))


@functools.partial(jax.jit, static_argnums=0)
def _row_sums(kernel: Kernel, x: jax.Array, y: jax.Array) -> jax.Array:
  return _exact(kernel.gram(x, y), jnp.ones(len(y)))


def check_samples(x, y, kernel: Kernel) -> tuple[np.ndarray, np.ndarray]:
  """Both samples with tokens flattened to `[n, D]`, features to `[n, F]`, or `ValueError`."""
  x, y = np.asarray(x), np.asarray(y)
  for name, sample in (("first", x), ("second", y)):
    if sample.ndim < 2 or len(sample) < 2:
      raise ValueError(
        f"the {name} sample has shape {sample.shape}; expected [n, ...] with at least 2 items"
      )
    integer, floating = (np.issubdtype(sample.dtype, kind) for kind in (np.integer, np.floating))
    if not (integer or floating):
      raise ValueError(f"the {name} sample has dtype {sample.dtype}; expected integers or floats")
    if kernel.takes_tokens and not integer:
      raise ValueError(
        f"the {name} sample has dtype {sample.dtype}; {type(kernel).__name__} takes integer tokens"
      )
    if kernel.takes_tokens and sample.min() < 0:
      raise ValueError(f"the {name} sample has a token {sample.min()}; expected none below 0")
    if floating and not np.isfinite(sample).all():
      raise ValueError(f"the {name} sample has values that are not finite; remove them")
  if x.shape[1:] != y.shape[1:]:
    raise ValueError(
      f"the samples have items of shapes {x.shape[1:]} and {y.shape[1:]}; expected the same"
    )
  return x.reshape(len(x), -1), y.reshape(len(y), -1)


def gram_sums(
  pooled: np.ndarray,
  num_x: int,
  kernel: Kernel,
  choices: np.ndarray | None = None,
  mesh: Mesh | None = None,
  block_size: int = 1024,
) -> GramSums:
  """One pass over the Gram matrix of `pooled` `[N, ...]`, whose first `num_x` items are x.

  `choices` bool `[N, P]` are the ways to choose a half for `quadratic`.
  """
  kernel = kernel.fit(pooled)
  size = len(pooled)
  mesh = mesh or Mesh(np.array(jax.local_devices()[:1]), ("data",))
  num_blocks = -(-size // block_size)
  block = -(-size // num_blocks)  # even ones: little is padding
  padding = num_blocks * block - size

  def pad(array):
    return np.pad(array, [(0, padding)] + [(0, 0)] * (array.ndim - 1))

  is_x = np.arange(size) < num_x
  groups = pad(np.stack([is_x, ~is_x], 1).astype(np.float32))
  choices = pad(np.zeros((size, 0), bool) if choices is None else choices)
  pairs = np.stack(np.triu_indices(num_blocks), 1).astype(np.int32)
  # A pair of block -1 does nothing: every device gets the same number of pairs.
  idle = -len(pairs) % mesh.size
  pairs = np.concatenate([pairs, np.full((idle, 2), -1, np.int32)])
  # Dealt out in turns, so that the costly diagonal ones are spread.
  pairs = pairs.reshape(-1, mesh.size, 2).swapaxes(0, 1).reshape(-1, 2)
  sums = _sum_blocks(kernel, block, mesh, pad(pooled), groups, choices, pairs)
  (rows, diagonal), per_pair = jax.tree.map(lambda a: np.asarray(a, np.float64), sums)
  squares, quadratic = (part.sum(0) for part in per_pair)
  return GramSums(rows[:size], diagonal[:size], squares, quadratic)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sum_blocks(kernel: Kernel, block: int, mesh: Mesh, pooled, groups, choices, pairs):
  everywhere, split = PartitionSpec(), PartitionSpec(mesh.axis_names)

  def device_sums(pooled, groups, choices, pairs):
    def take(array, index):
      return jax.lax.dynamic_slice_in_dim(array, index * block, block)

    def add_pair(totals, pair):
      rows, diagonal = totals
      live = (pair[0] >= 0).astype(jnp.float32)
      i, j = jnp.maximum(pair, 0)
      groups_i, groups_j = take(groups, i), live * take(groups, j)
      choices_i, choices_j = (take(choices, k).astype(jnp.float32) for k in (i, j))
      gram = kernel.gram(take(pooled, i), take(pooled, j))
      same = (i == j).astype(jnp.float32)
      selves = jnp.eye(block) * same
      diagonal = _add_at(diagonal, i * block, live * (gram * selves).sum(1))
      gram = gram * (1.0 - selves)
      rows = _add_at(rows, i * block, _exact(gram, groups_j))
      # The mirror image of a pair of different blocks.
      mirrored = _exact(groups_i.T, gram).T
      rows = _add_at(rows, j * block, (1.0 - same) * live * mirrored)
      square = _exact(groups_i.T, _exact(gram * gram, groups_j))
      square += (1.0 - same) * square.T
      chosen = (2.0 - same) * (choices_i * _exact(gram, live * choices_j)).sum(0)
      # Sums of a pair leave one by one: float32 would lose some of a sum over thousands of pairs.
      return (rows, diagonal), (square, chosen)

    zeros = jnp.zeros((len(pooled), 2)), jnp.zeros(len(pooled))
    totals, per_pair = jax.lax.scan(add_pair, zeros, pairs)
    return jax.lax.psum(totals, mesh.axis_names), per_pair

  return jax.shard_map(
    device_sums,
    mesh=mesh,
    in_specs=(everywhere, everywhere, everywhere, split),
    out_specs=(everywhere, split),
    check_vma=False,
  )(pooled, groups, choices, pairs)


def _exact(a: jax.Array, b: jax.Array) -> jax.Array:
  """A matrix product that accelerators do not round to bf16."""
  return jnp.matmul(a, b, precision="highest")


def _add_at(total: jax.Array, start: jax.Array, part: jax.Array) -> jax.Array:
  old = jax.lax.dynamic_slice_in_dim(total, start, len(part))
  return jax.lax.dynamic_update_slice_in_dim(total, old + part, start, 0)


def estimate(sums: GramSums, num_x: int, estimator: str = "unbiased") -> MMD2:
  """The estimate that belongs to the sums of a pooled sample."""
  n, m = num_x, len(sums.rows) - num_x
  x, y = slice(0, n), slice(n, None)
  xx, xy = sums.rows[x, 0], sums.rows[x, 1]
  yx, yy = sums.rows[y, 0], sums.rows[y, 1]
  between = xy.sum() / (n * m)
  if estimator == "unbiased":
    within_x, within_y = xx.sum() / (n * (n - 1)), yy.sum() / (m * (m - 1))
  else:
    within_x = (xx.sum() + sums.diagonal[x].sum()) / n**2
    within_y = (yy.sum() + sums.diagonal[y].sum()) / m**2
  value = within_x + within_y - 2.0 * between
  variance = _variance(sums.squares, xx / (n - 1), xy / m, yx / n, yy / (m - 1))
  return MMD2(*map(float, (value, np.sqrt(variance), within_x, within_y, between)))


def _variance(squares: np.ndarray, xx, xy, yx, yy) -> float:
  """Variance of the U-statistic from the means `xx`, `xy`, `yx`, `yy` of rows of the Gram matrix.

  Hoeffding's decomposition: a first-order term, `4 Var(h)/n` with `h` the influence of one item,
  and a second-order one from the residuals of the doubly centred kernel. The sample variance of
  `h` holds the residuals' noise too; taken together they enter with a minus sign.
  """
  n, m = len(xx), len(yy)
  first = 4.0 * (xx - xy).var(ddof=1) / n + 4.0 * (yy - yx).var(ddof=1) / m
  residual_xx = squares[0, 0] / (n * (n - 1)) - 2.0 * np.square(xx).mean() + xx.mean() ** 2
  residual_yy = squares[1, 1] / (m * (m - 1)) - 2.0 * np.square(yy).mean() + yy.mean() ** 2
  mean_squares = np.square(xy).mean() + np.square(yx).mean()
  residual_xy = squares[0, 1] / (n * m) - mean_squares + xy.mean() ** 2
  residuals = [max(r, 0.0) for r in (residual_xx, residual_yy, residual_xy)]
  second = 2.0 * residuals[0] / n**2 + 2.0 * residuals[1] / m**2 + 4.0 * residuals[2] / (n * m)
  # With few items the difference is noisy; half of the conservative first term bounds it below.
  return max(first - second, first / 2.0)
