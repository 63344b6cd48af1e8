"""Kernel scores: match a student to the joint law of all tokens, exactly and in closed form.

A student's output is a mixture, over its noise, of products over tokens. For the Hamming kernel
`prod_d (c + (1 - c) 1[x_d = y_d])` expectations over samples of products are products again,

    E k(x, x') = prod_d (c + (1 - c) <p_d, p'_d>)     for x ~ p, x' ~ p' independent
    E k(x, y)  = prod_d (c + (1 - c) p_d[y_d])        for x ~ p and tokens y,

so that a Maximum Mean Discrepancy between samples is a smooth function of the probabilities: no
sampling, no straight-through estimator, no auxiliary network. The *conditional kernel score*

    S(eta) = E[ 1/2 E k(x, x') - E k(x, x_data) ],    z_t ~ q(z_t | x_data),

with `x` and `x'` from two noises at the same `z_t`, is half the MMD^2 between the student's law at
`z_t` and `q(x | z_t)`, but for a constant: expand `1/2 |mu_student - mu_data|^2` and drop the term
without `eta`. `x_data` is one exact draw from `q(x | z_t)`, which is all that the cross term needs.
The kernel is characteristic, so the score is strictly proper (Gneiting & Raftery 2007): its only
optimum is the joint conditional law, at any step size, down to one step from `z_1`. Continuous
relative: De Bortoli et al., arXiv 2502.02483.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.diffusion.processes import Process
from dmmd_jax.positions import Deferred, map_positions


class Scale(NamedTuple):
  """Windows of `window` tokens, or `window x window` pixels with all channels, `stride` apart.

  `window = 0` is the whole example. A bandwidth `h`, in tokens, is `c = exp(-1/h)`.
  """

  window: int
  stride: int
  bandwidths: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class KernelScore:
  """The choices of a kernel score.

  The kernel is the sum over scales and bandwidths of the mean over windows of Hamming kernels. One
  bandwidth is too sharp or too flat at one stage of training or another; small windows have a
  gradient where the product over a whole image still vanishes.
  """

  process: Process
  scales: tuple[Scale, ...] = (Scale(0, 1, (2.0, 8.0, 32.0)),)
  # Ordered categories such as grey levels: 1[x = y] becomes exp(-(x - y)^2 / (2 bandwidth^2)), in
  # categories; 0 leaves it.
  category_bandwidth: float = 0.0


def conditional_score(
  method: KernelScore,
  log_p: jax.Array | Deferred,
  x: jax.Array,
  z_t: jax.Array,
  num_blocks: int = 1,
  blank: jax.Array | None = None,
) -> jax.Array:
  """The conditional kernel score, averaged over the batch; differentiable in `log_p`.

  `log_p` `[B * M, ..., K]` is the student's `log E[x | z_t, noise]` at each `z_t` int `[B, ...]`,
  for `M >= 2` independent noises in a row; `x` int `[B, ...]` a draw from `q(x | z_t)`. Each of
  `num_blocks` parts of a sequence is compared on its own, given the parts before it. With `blank`
  bool `[B]`, the `z_t` that say nothing of their `x`, as at `t = 1`, all of these are compared with
  the data of all of them: draws of one law, whose mean is the better target.
  """

  def agreements(log_p, x, z_t):
    p = jnp.exp(log_p)
    p = p.reshape(len(x), -1, *p.shape[1:])
    data = jax.nn.one_hot(x, method.process.num_categories)
    # Every noise with its neighbour: independent pairs are all that unbiasedness asks for.
    both = _agreement(method, p, jnp.roll(p, 1, axis=1)), _agreement(method, p, data[:, None])
    decided = ~method.process.active(z_t)[:, None]
    both = tuple(jnp.where(decided, 1.0, a).reshape(log_p.shape[:-1]) for a in both)
    if blank is None:
      return both
    of_pairs = jnp.einsum("n...k,m...k->n...m", jnp.exp(log_p), _smooth(method, data))
    return *both, of_pairs

  shape = x.shape[1:] if num_blocks == 1 else (x.shape[1] // num_blocks,)
  among, with_data, *of_pairs = map_positions(agreements, log_p, x, z_t)
  among, with_data = (kernel(method, a.reshape(-1, *shape), len(shape)) for a in (among, with_data))
  if blank is not None:
    with_each = kernel(method, jnp.moveaxis(of_pairs[0], -1, 1), len(shape))
    with_all = jnp.where(blank, with_each, 0.0).sum(1) / jnp.maximum(blank.sum(), 1)
    with_data = jnp.where(jnp.repeat(blank, len(with_all) // len(x)), with_all, with_data)
  return (0.5 * among - with_data).mean()


def marginal_mmd2(
  method: KernelScore,
  log_p: jax.Array | Deferred,
  x: jax.Array,
  z_t: jax.Array,
  num_blocks: int = 1,
) -> jax.Array:
  """Unbiased MMD^2 between the student's outputs, whatever `z_t`, and the data.

  `log_p` `[B, ..., K]`, `x` and `z_t` int `[B, ...]`; all pairs of different examples, so that row
  `i` of `z_t` may come from row `i` of `x`. Examples are `num_blocks` rows each, which may depend
  on one another; whole examples must not, so their times are drawn independently
  (`DMMD.independent_times`): with times that cover [0, 1] evenly the estimate is biased.
  """
  num_categories, size = method.process.num_categories, len(x)
  example = jnp.arange(size) // num_blocks
  others = example[:, None] != example

  def agreements(log_p, x, z_t):
    """Of all pairs of examples, `[B, positions, ..., B]`: two of students, of data, of both."""
    data = jax.nn.one_hot(x, num_categories)
    # What is decided is a certain token.
    undecided = method.process.active(z_t)[..., None]
    p = jnp.where(undecided, jnp.exp(log_p), jax.nn.one_hot(z_t, num_categories))
    pairs = (p, p), (data, data), (p, data)
    return tuple(jnp.moveaxis(_agreement(method, a[:, None], b[None]), 1, -1) for a, b in pairs)

  def mean_over_others(agreement):
    values = kernel(method, jnp.moveaxis(agreement, -1, 1), z_t.ndim - 1)
    return jnp.where(others, values, 0.0).sum() / (size * (size - num_blocks))

  student, data, both = map(mean_over_others, map_positions(agreements, log_p, x, z_t))
  return student + data - 2.0 * both


def kernel(method: KernelScore, agreement: jax.Array, num_axes: int) -> jax.Array:
  """Kernel values `[...]` of agreements in [0, 1] of tokens, `[..., D]` or `[..., H, W, C]`.

  `num_axes` is 1 or 3. Products are exponentials of sums of logarithms, windows windowed sums.
  """
  sides = agreement.shape[-num_axes:][:2]
  batch = agreement.shape[:-num_axes]
  total = 0.0
  for scale in method.scales:
    inside = [jnp.asarray(_windows(side, scale.window, scale.stride)) for side in sides]
    for bandwidth in scale.bandwidths:
      # log(c + (1 - c) a), accurate where c is near 1, finite where c vanishes in float32
      logs = jnp.log1p(max(math.expm1(-1.0 / bandwidth), 1e-7 - 1.0) * (1.0 - agreement))
      if num_axes == 3:
        sums = jnp.einsum("...hwc,hi,wj->...ij", logs, *inside, precision="highest")
      else:
        sums = jnp.matmul(logs, inside[0], precision="highest")
      total += jnp.exp(sums).reshape(*batch, -1).mean(-1)
  return total


def _windows(side: int, window: int, stride: int) -> np.ndarray:
  """Which of `side` positions are in which window, float32 `[side, windows]` of zeros and ones."""
  window = window or side
  starts = np.arange(0, side - window + 1, stride)
  offset = np.arange(side)[:, None] - starts
  return ((offset >= 0) & (offset < window)).astype(np.float32)


def _agreement(method: KernelScore, p: jax.Array, q: jax.Array) -> jax.Array:
  """`<p_d, G q_d>` of probabilities `[..., K]`, with `G` the kernel on categories."""
  return (p * _smooth(method, q)).sum(-1)


def _smooth(method: KernelScore, q: jax.Array) -> jax.Array:
  """`G q_d` of probabilities `[..., K]`."""
  if not method.category_bandwidth:
    return q
  categories = jnp.arange(q.shape[-1], dtype=jnp.float32)
  distance = (categories[:, None] - categories) / method.category_bandwidth
  return jnp.matmul(q, jnp.exp(-0.5 * distance**2), precision="highest")
