"""A bidirectional transformer that predicts clean tokens, for sequences and (patchified) images."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# A table look-up is a matrix product up to this many states: its gradient, a scatter, is slow.
_ONE_HOT_STATES = 1024

# What the forward pass of a layer leaves for the backward pass.
_REMAT_POLICIES = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Sizes of a transformer; `shape` is that of one example, `(D,)` or `(H, W, C)`."""

  shape: tuple[int, ...]
  num_states: int
  num_categories: int
  width: int = 128
  depth: int = 4
  heads: int = 4
  patch: int = 1
  embed_dim: int = 32
  mlp_ratio: int = 4
  positions: str = "rotary"
  noise_channels: int = 0
  dtype: Any = jnp.float32
  remat: str = "none"

  @property
  def grid(self) -> tuple[int, ...]:
    """Numbers of patches along each axis: `(D/p,)` or `(H/p, W/p)`."""
    return tuple(size // self.patch for size in self.shape[:2])


class Transformer(nn.Module):
  """Logits float32 `[B, ..., K]` of the clean tokens given tokens int `[B, ...]` and `t` `[B]`.

  Adaptive layer norm on time with zero-initialised gates (DiT, arXiv 2212.09748), QK-norm, rotary
  or learned positions, zero-initialised output, layers under `lax.scan`.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(self, z: jax.Array, t: jax.Array, noise: jax.Array | None = None) -> jax.Array:
    c = self.config
    h = _dense(c, c.width, ("patch", "embed"), name="embed")(self._fold(self._embed(z)))
    if c.noise_channels and noise is not None:
      # Zero at first, so that a student starts as its teacher.
      h += _dense(c, c.width, ("patch", "embed"), zero=True, name="noise")(
        self._fold(noise.astype(c.dtype))
      )
    if c.positions == "learned":
      h += self.param(
        "positions", _partitioned(nn.initializers.normal(0.02), None, "embed"), h.shape[1:]
      ).astype(c.dtype)
    time = nn.silu(_dense(c, c.width, ("patch", "embed"), name="time_in")(_time_features(t, c)))
    time = nn.silu(_dense(c, c.width, ("embed", "embed_out"), name="time_out")(time))
    block = _Block
    if c.remat != "none":
      block = nn.remat(_Block, prevent_cse=False, policy=_REMAT_POLICIES[c.remat])
    layers = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=nn.broadcast,
      length=c.depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    h, _ = layers(c, name="layers")(h, time)
    shift, scale = jnp.split(
      _dense(c, 2 * c.width, ("embed", "mlp"), zero=True, name="out_norm")(time), 2, -1
    )
    h = _modulate(h, shift, scale)
    channels = c.shape[2] if len(c.shape) == 3 else 1
    per_position = channels * c.num_categories
    h = _dense(
      c, c.patch ** len(c.grid) * per_position, ("embed", "vocab"), zero=True, name="logits"
    )(h)
    logits = self._unfold(h, per_position)
    return logits.astype(jnp.float32).reshape((*z.shape, c.num_categories))

  def _embed(self, z: jax.Array) -> jax.Array:
    """Value embeddings `[B, positions..., features]`; an image's channels are concatenated."""
    c = self.config
    table = self.param(
      "tokens",
      _partitioned(nn.initializers.normal(1.0), "vocab", None),
      (c.num_states, c.embed_dim),
    ).astype(c.dtype)
    if c.num_states <= _ONE_HOT_STATES:
      embedded = jax.nn.one_hot(z, c.num_states, dtype=c.dtype) @ table
    else:
      embedded = table[z]
    return embedded.reshape((*z.shape[: 1 + len(c.grid)], -1))

  def _fold(self, h: jax.Array) -> jax.Array:
    """`[B, H, W, F]` or `[B, D, F]` to patches `[B, patches, p*p*F]` or `[B, patches, p*F]`."""
    p, grid = self.config.patch, self.config.grid
    b, f = h.shape[0], h.shape[-1]
    if len(grid) == 1:
      return h.reshape(b, grid[0], p * f)
    h = h.reshape(b, grid[0], p, grid[1], p, f).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(b, grid[0] * grid[1], p * p * f)

  def _unfold(self, h: jax.Array, features: int) -> jax.Array:
    """The inverse of `_fold`."""
    p, grid = self.config.patch, self.config.grid
    if len(grid) == 1:
      return h.reshape(h.shape[0], grid[0] * p, features)
    h = h.reshape(h.shape[0], *grid, p, p, features).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(h.shape[0], grid[0] * p, grid[1] * p, features)


class _Block(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, h: jax.Array, time: jax.Array):
    c = self.config
    modulation = _dense(c, 6 * c.width, ("embed", "mlp"), zero=True, name="modulation")(time)
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, -1)
    b, length, _ = h.shape
    qkv = _dense(c, 3 * c.width, ("embed", "heads"), name="qkv")(_modulate(h, shift1, scale1))
    q, k, v = jnp.moveaxis(qkv.reshape(b, length, 3, c.heads, c.width // c.heads), 2, 0)
    q = nn.RMSNorm(dtype=c.dtype, name="q_norm")(q)
    k = nn.RMSNorm(dtype=c.dtype, name="k_norm")(k)
    if c.positions == "rotary":
      cos, sin = _rotary_angles(c.grid, c.width // c.heads, c.dtype)
      q, k = _rotate(q, cos, sin), _rotate(k, cos, sin)
    attended = jax.nn.dot_product_attention(q, k, v).reshape(b, length, c.width)
    h += gate1[:, None] * _dense(c, c.width, ("heads", "embed"), name="attended")(attended)
    hidden = _dense(c, c.mlp_ratio * c.width, ("embed", "mlp"), name="mlp_in")(
      _modulate(h, shift2, scale2)
    )
    hidden = _dense(c, c.width, ("mlp", "embed"), name="mlp_out")(nn.gelu(hidden))
    return h + gate2[:, None] * hidden, None


def _partitioned(initializer, *names):
  return nn.with_logical_partitioning(initializer, names)


def _dense(c: TransformerConfig, features: int, axes: tuple, zero: bool = False, name: str = ""):
  """An affine map of the last axis, as one product of two matrices.

  With more than two axes the gradient of the kernel contracts several of them at once, for which
  XLA's CPU backend first transposes both operands: twice the time of the whole backward pass.
  """
  initializer = nn.initializers.zeros if zero else nn.initializers.xavier_uniform()
  dense = nn.Dense(
    features,
    dtype=c.dtype,
    kernel_init=_partitioned(initializer, *axes),
    bias_init=_partitioned(nn.initializers.zeros, axes[-1]),
    name=name,
  )
  return lambda h: dense(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], features)


def _modulate(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """Layer norm without parameters, then an affine map per example."""
  wide = h.astype(jnp.float32)
  wide -= wide.mean(-1, keepdims=True)
  wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
  return wide.astype(h.dtype) * (1.0 + scale[:, None]) + shift[:, None]


def _time_features(t: jax.Array, c: TransformerConfig) -> jax.Array:
  """Sinusoids of `t` `[B]` at geometric frequencies from 1 to 1000 radians, `[B, width]`."""
  frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), c.width // 2))
  angles = t[:, None].astype(jnp.float32) * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(c.dtype)


def _rotary_angles(grid: tuple[int, ...], head_dim: int, dtype) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines `[patches, 1, head_dim/2]`; an image's axes share the frequencies evenly."""
  per_axis = head_dim // 2 // len(grid)
  frequencies = 1.0 / 10000.0 ** (jnp.arange(per_axis) / per_axis)
  coordinates = jnp.meshgrid(*(jnp.arange(n) for n in grid), indexing="ij")
  angles = jnp.concatenate([x.reshape(-1, 1) * frequencies for x in coordinates], -1)[:, None]
  return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotates pairs of features of `x` `[B, patches, heads, head_dim]`."""
  a, b = jnp.split(x, 2, -1)
  return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
