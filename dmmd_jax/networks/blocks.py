"""Transformer blocks, as many as there are under one loop."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
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


def scan_blocks(c: NetworkConfig, training: bool, name: str, block: int = 0, conv: int = 0):
  """Transformer blocks under one `lax.scan`: `(h, time, angles, mask, cache, first) -> (h, cache)`.

  `h` `[B, positions, width]`; `time` `[B, T, width]` for `T` evenly shared times; `angles` of
  rotary positions or None; `mask` bool `[queries, keys]` or None, as `attend` has it;
  `first` is the place of the first position in the cache. Before attention `conv` neighbours are
  mixed, within blocks of `block` positions.
  """
  blocks = nn.scan(
    layers.remat(TransformerBlock, c.remat, in_loop=True),
    variable_axes={"params": 0},
    split_rngs={"params": True, "dropout": True},
    in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast),
    length=c.depth,
    metadata_params={nn.PARTITION_NAME: "layers"},
  )
  return blocks(c, training, block, conv, name=name)


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
      q, k = _rotate(q, *angles), _rotate(k, *angles)
    if cache is not None:
      k = jax.lax.dynamic_update_slice_in_dim(cache.keys, k, first, 3)
      v = jax.lax.dynamic_update_slice_in_dim(cache.values, v, first, 3)
      cache = Cache(k, v)
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

  @nn.compact
  def __call__(self, h: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    width = h.shape[-1]
    features = width // self.heads
    kernel = self.param(
      "kernel",
      layers.partitioned(nn.initializers.xavier_uniform(), "embed", "heads"),
      (width, 3 * width),
    )
    bias = self.param("bias", layers.partitioned(nn.initializers.zeros, "heads"), (2 * width,))
    kernel = kernel.astype(self.dtype).reshape(width, self.heads, 3, features)
    bias = bias.astype(self.dtype).reshape(self.heads, 2, features, 1)
    q, k, v = (jnp.einsum("bld,dhf->bhfl", h, kernel[:, :, i]) for i in range(3))
    return q + bias[:, 0], k + bias[:, 1], v


class FromHeads(nn.Module):
  """An affine map of `[B, positions, heads, features]` to `[B, positions, width]`."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, attended: jax.Array) -> jax.Array:
    *_, heads, features = attended.shape
    kernel = self.param(
      "kernel",
      layers.partitioned(nn.initializers.xavier_uniform(), "heads", "embed"),
      (heads * features, self.width),
    )
    bias = self.param("bias", layers.partitioned(nn.initializers.zeros, "embed"), (self.width,))
    kernel = kernel.astype(self.dtype).reshape(heads, features, self.width)
    return jnp.einsum("blhf,hfd->bld", attended, kernel) + bias.astype(self.dtype)


def rotary_angles(grid: tuple[int, ...], head_dim: int, dtype) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines `[head_dim/2, positions]`; an image's axes share the frequencies."""
  per_axis = head_dim // 2 // len(grid)
  frequencies = 1.0 / 10000.0 ** (jnp.arange(per_axis) / per_axis)
  coordinates = jnp.meshgrid(*(jnp.arange(n) for n in grid), indexing="ij")
  angles = jnp.concatenate([frequencies[:, None] * x.reshape(1, -1) for x in coordinates])
  return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates pairs of features of `x` `[B, heads, head_dim, positions]`."""
  a, b = jnp.split(x, 2, 2)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], 2)
