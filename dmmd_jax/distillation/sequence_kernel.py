"""Kernels between sequences, from the agreement of their tokens."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.diffusion.processes import Process


class Scale(NamedTuple):
  """Windows of `window` tokens, or `window x window` pixels with all channels, `stride` apart.

  `window = 0` is the whole example. A bandwidth `h`, in tokens, is `c = exp(-1/h)`.
  """

  window: int
  stride: int
  bandwidths: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Kernel:
  """The sum over scales and bandwidths of the mean over windows of Hamming kernels.

  One bandwidth is too sharp or too flat at one stage of training or another; small windows have a
  gradient where the product over a whole image still vanishes. `process` is that of the tokens.
  """

  process: Process
  scales: tuple[Scale, ...] = (Scale(0, 1, (2.0, 8.0, 32.0)),)
  # Ordered categories such as grey levels: 1[x = y] becomes exp(-(x - y)^2 / (2 bandwidth^2)), in
  # categories; 0 leaves it.
  category_bandwidth: float = 0.0


def kernel(c: Kernel, agreement: jax.Array, num_axes: int) -> jax.Array:
  """Kernel values `[...]` of agreements in [0, 1] of tokens, `[..., D]` or `[..., H, W, C]`.

  `num_axes` is 1 or 3. Products are exponentials of sums of logarithms, windows windowed sums.
  """
  sides = agreement.shape[-num_axes:][:2]
  batch = agreement.shape[:-num_axes]
  total = 0.0
  for scale in c.scales:
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


def agreement(c: Kernel, p: jax.Array, q: jax.Array) -> jax.Array:
  """`<p_d, G q_d>` of probabilities `[..., K]`, with `G` the kernel on categories."""
  return (p * smooth(c, q)).sum(-1)


def smooth(c: Kernel, q: jax.Array) -> jax.Array:
  """`G q_d` of probabilities `[..., K]`."""
  if not c.category_bandwidth:
    return q
  categories = jnp.arange(q.shape[-1], dtype=jnp.float32)
  distance = (categories[:, None] - categories) / c.category_bandwidth
  return jnp.matmul(q, jnp.exp(-0.5 * distance**2), precision="highest")
