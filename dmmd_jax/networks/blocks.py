"""Transformer blocks, as many as there are under one loop."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from dmmd_jax.networks import layers
from dmmd_jax.networks.attention import attend
from dmmd_jax.networks.layers import NetworkConfig, dense, per_position


class Cache(NamedTuple):
  """Keys and values of a sequence, `[depth, B, heads, features, positions]`, as far as known."""

  keys: jax.Array
  values: jax.Array

  @classmethod
  def empty(cls, c: NetworkConfig, batch_size: int, positions: int) -> "Cache":
    zeros = jnp.zeros((c.depth, batch_size, c.heads, c.width // c.heads, positions), c.dtype)
    return cls(zeros, zeros)

  def append(self, keys: jax.Array, values: jax.Array, first: jax.Array | int) -> "Cache":
    """That of one layer, `[B, heads, features, positions]`, with more from place `first` on."""
    return Cache(
      jax.lax.dynamic_update_slice_in_dim(self.keys, keys, first, 3),
      jax.lax.dynamic_update_slice_in_dim(self.values, values, first, 3),
    )


def scan_blocks(c: NetworkConfig, training: bool, name: str, block: int = 0, conv: int = 0):
  """Transformer blocks under one `lax.scan`, as `scan_layers` has them.

  Before attention `conv` neighbours are mixed, within blocks of `block` positions.
  """
  return scan_layers(TransformerBlock, c, training, block, conv, name=name)


def scan_layers(layer: type[nn.Module], c: NetworkConfig, *settings: Any, name: str) -> nn.Module:
  """Layers under one `lax.scan`: `(h, time, angles, mask, cache, first) -> (h, cache)`.

  `h` `[B, positions, width]`; `time` `[B, T, width]` for `T` evenly shared times, or None; `angles`
  of rotary positions or None; `mask` bool `[queries, keys]` or None, as `attend` has it; `first` is
  the place of the first position in the cache. `layer` is made of `c` and the `settings`.
  """
  blocks = nn.scan(
    layers.remat(layer, c.remat, in_loop=True),
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast),
    length=c.depth,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return blocks(c, *settings, name=name)


class TransformerBlock(nn.Module):
  """Attention and a perceptron, with adaptive norms and gates."""

  config: NetworkConfig
  training: bool
  block: int
  conv: int

  @nn.compact
  def __call__(self, h, time, angles, mask, cache, first):
    c = self.config
    h = layers.split_examples(h)
    shift1, scale1, gate1, shift2, scale2, gate2 = layers.modulation(time, c.width, 6, c.dtype)
    length = h.shape[1]
    mixed = layers.modulate_positions(h, shift1, scale1)
    if self.conv:
      mixed = self._mix_neighbours(mixed)
    q, k, v = ToHeads(c.heads, c.dtype, name="qkv")(mixed)
    q, k = (
      nn.RMSNorm(dtype=c.dtype, reduction_axes=2, feature_axes=2, name=name)(x)
      for x, name in ((q, "q_norm"), (k, "k_norm"))
    )
    if angles is not None:
      q, k = rotate(q, *angles), rotate(k, *angles)
    if cache is not None:
      k, v = cache = cache.append(k, v, first)
    attended = FromHeads(c.width, c.dtype, name="attended")(attend(q, k, v, mask))
    attended = checkpoint_name(attended, "narrow")
    h += per_position(gate1, length) * self._drop(attended)
    hidden = dense(c.mlp_ratio * c.width, ("embed", "mlp"), c.dtype, name="mlp_in")(
      layers.modulate_positions(h, shift2, scale2)
    )
    hidden = dense(c.width, ("mlp", "embed"), c.dtype, name="mlp_out")(self._drop(nn.gelu(hidden)))
    hidden = checkpoint_name(hidden, "narrow")
    return h + per_position(gate2, length) * hidden, cache

  def _drop(self, h: jax.Array) -> jax.Array:
    return layers.Dropout(self.config.dropout, self.training)(h)

  def _mix_neighbours(self, h: jax.Array) -> jax.Array:
    """A depthwise convolution that does not cross block boundaries; identity at initialisation."""
    c = self.config
    centre = self.conv // 2
    kernel = self.param(
      "conv",
      layers.partitioned(lambda key, shape: jnp.zeros(shape).at[centre].set(1.0), None, "embed"),
      (self.conv, c.width),
    ).astype(c.dtype)
    blocks = h.reshape(-1, min(self.block, h.shape[1]), c.width)
    padded = jnp.pad(blocks, ((0, 0), (centre, self.conv - 1 - centre), (0, 0)))
    shifted = (kernel[i] * padded[:, i : i + blocks.shape[1]] for i in range(self.conv))
    return sum(shifted).reshape(h.shape)


class ToHeads(nn.Module):
  """Maps `[B, positions, width]` to queries, keys and values `[B, heads, features, positions]`.

  Positions come last: half of a TPU's registers would hold nothing of the 64 features of a head. In
  the matrix heads come first, so that splitting it over devices splits it by heads. Values have no
  bias, since weights of attention sum to one: it would be a part of the bias that follows.
  """

  heads: int
  dtype: Any
  use_bias: bool = True

  @nn.compact
  def __call__(self, h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    width = h.shape[-1]
    features = width // self.heads
    kernel = self.param(
      "kernel",
      layers.partitioned(nn.initializers.xavier_uniform(), "embed", "heads"),
      (width, 3 * width),
    )
    kernel = kernel.astype(self.dtype).reshape(width, self.heads, 3, features)
    q, k, v = (jnp.einsum("bld,dhf->bhfl", h, kernel[:, :, i]) for i in range(3))
    if not self.use_bias:
      return q, k, v
    bias = self.param("bias", layers.partitioned(nn.initializers.zeros, "heads"), (2 * width,))
    bias = bias.astype(self.dtype).reshape(self.heads, 2, features, 1)
    return q + bias[:, 0], k + bias[:, 1], v


class FromHeads(nn.Module):
  """An affine map of `[B, positions, heads, features]` to `[B, positions, width]`."""

  width: int
  dtype: Any
  use_bias: bool = True

  @nn.compact
  def __call__(self, attended: jax.Array) -> jax.Array:
    *_, heads, features = attended.shape
    kernel = self.param(
      "kernel",
      layers.partitioned(nn.initializers.xavier_uniform(), "heads", "embed"),
      (heads * features, self.width),
    )
    kernel = kernel.astype(self.dtype).reshape(heads, features, self.width)
    h = jnp.einsum("blhf,hfd->bld", attended, kernel)
    if not self.use_bias:
      return h
    bias = self.param("bias", layers.partitioned(nn.initializers.zeros, "embed"), (self.width,))
    return h + bias.astype(self.dtype)


def rotary_angles(
  grid: tuple[int, ...], head_dim: int, dtype, base: float = 10_000.0
) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines `[head_dim/2, positions]`; an image's axes share the frequencies."""
  per_axis = head_dim // 2 // len(grid)
  frequencies = 1.0 / base ** (jnp.arange(per_axis) / per_axis)
  coordinates = jnp.meshgrid(*(jnp.arange(n) for n in grid), indexing="ij")
  angles = jnp.concatenate([frequencies[:, None] * x.reshape(1, -1) for x in coordinates])
  return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates pairs of features of `x` `[B, heads, head_dim, positions]`."""
  a, b = jnp.split(x, 2, 2)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], 2)


def attention_mask(
  length: int, total: int, block: int, first: jax.Array | int, with_context: bool, cached: bool
) -> np.ndarray | jax.Array | None:
  """Which of `length` positions see which, bool `[queries, keys]`; None where all see all.

  Blocks of `block` positions see themselves and those before; with a context, the clean blocks
  before, which follow `length` noisy positions (BD3-LM, arXiv 2503.09573). Those of a cache of
  `total` positions, of which `first` were known, see all that are known then.
  """
  if cached:
    return jnp.broadcast_to(jnp.arange(total) < first + length, (length, total))
  place = np.arange(length) // block
  earlier, same = place[:, None] > place, place[:, None] == place
  if with_context:
    return np.block([[same, earlier], [np.zeros_like(same), earlier | same]])
  return earlier | same if block < length else None


def block_times(t: jax.Array, step: int, num_blocks: int, with_context: bool) -> jax.Array:
  """Times `[B]`, or `[B, D]` of which every `step` are equal, as `[B, T]`, often just one.

  Those of a context, which is clean, are 0, for as many of its blocks.
  """
  t = t[:, None] if t.ndim == 1 else t[:, ::step]
  if with_context:
    t = jnp.broadcast_to(t, (t.shape[0], num_blocks))
    t = jnp.concatenate([t, jnp.zeros_like(t)], 1)
  return t
