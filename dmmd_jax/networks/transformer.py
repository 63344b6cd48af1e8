"""A transformer that predicts clean tokens, for sequences and (patchified) images.

Bidirectional; in blocks (bidirectional within a block, causal between them); or causal.
"""

import dataclasses
import math
from typing import Any, NamedTuple

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
  """Sizes of a transformer; `shape` is that of one example, `(D,)` or `(H, W, C)`.

  `block` tokens of a sequence are one block, which sees itself and the blocks before it; 0 is the
  whole example. `block = 1` is causal. `conv` tokens, within a block, are mixed before attention.
  """

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
  conv: int = 0
  block: int = 0
  noise_channels: int = 0
  dtype: Any = jnp.float32
  remat: str = "none"

  @property
  def grid(self) -> tuple[int, ...]:
    """Numbers of patches along each axis: `(D/p,)` or `(H/p, W/p)`."""
    return tuple(size // self.patch for size in self.shape[:2])

  @property
  def num_patches(self) -> int:
    return math.prod(self.grid)

  @property
  def block_patches(self) -> int:
    """Patches of a block."""
    return self.block // self.patch or self.num_patches


class Cache(NamedTuple):
  """Keys and values of a sequence, `[depth, B, patches, heads, width/heads]`, as far as known."""

  keys: jax.Array
  values: jax.Array

  @classmethod
  def empty(cls, c: TransformerConfig, batch_size: int) -> "Cache":
    zeros = jnp.zeros((c.depth, batch_size, c.num_patches, c.heads, c.width // c.heads), c.dtype)
    return cls(zeros, zeros)


class Transformer(nn.Module):
  """Logits float32 `[B, ..., K]` of the clean tokens given tokens int `[B, ...]` and `t`.

  `t` is `[B]`, or `[B, D]` with one time per block. Adaptive layer norm on time with
  zero-initialised gates (DiT, arXiv 2212.09748), QK-norm, rotary or learned positions,
  zero-initialised output, layers under `lax.scan`.

  A network of several blocks is trained in one pass (BD3-LM, arXiv 2503.09573): with `context`, the
  clean tokens int `[B, D]`, a block of `z` sees itself and the clean blocks before it. It samples
  with a `cache`: `z` is then one block, `start` the number of tokens before it, and the result
  `(logits, cache)` with the keys and values of that block written.
  """

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    z: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    context: jax.Array | None = None,
    cache: Cache | None = None,
    start: jax.Array | int = 0,
  ):
    c = self.config
    first = start // c.patch
    embed = self._token_embedding()
    h = embed(z)
    if c.noise_channels and noise is not None:
      # Zero at first, so that a student starts as its teacher.
      h += _dense(c, c.width, ("patch", "embed"), zero=True, name="noise")(
        self._fold(noise.astype(c.dtype))
      )
    length = h.shape[1]
    mask = _attention_mask(c, length, first, context is not None, cache is not None)
    if context is not None:
      h = jnp.concatenate([h, embed(context)], 1)
    time = self._time_embedding(t, length, context is not None)
    place = first + jnp.arange(length)
    place = jnp.concatenate([place, place]) if context is not None else place
    angles = None
    if c.positions == "learned":
      table = self.param(
        "positions",
        _partitioned(nn.initializers.normal(0.02), None, "embed"),
        (c.num_patches, c.width),
      )
      h += table[place].astype(c.dtype)
    else:
      angles = tuple(a[place] for a in _rotary_angles(c.grid, c.width // c.heads, c.dtype))
    block = _Block
    if c.remat != "none":
      block = nn.remat(_Block, prevent_cse=False, policy=_REMAT_POLICIES[c.remat])
    layers = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True},
      in_axes=(nn.broadcast, nn.broadcast, nn.broadcast, 0, nn.broadcast),
      length=c.depth,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    h, cache = layers(c, name="layers")(h, time, angles, mask, cache, first)
    modulation = _dense(c, 2 * c.width, ("embed", "mlp"), zero=True, name="out_norm")(time)
    h = _modulate(h, *jnp.split(modulation, 2, -1))[:, :length]
    channels = c.shape[2] if len(c.shape) == 3 else 1
    per_position = channels * c.num_categories
    h = _dense(
      c, c.patch ** len(c.grid) * per_position, ("embed", "vocab"), zero=True, name="logits"
    )(h)
    logits = self._unfold(h, per_position)
    logits = logits.astype(jnp.float32).reshape((*z.shape, c.num_categories))
    return logits if cache is None else (logits, cache)

  def _token_embedding(self):
    """Tokens `[B, ...]` to `[B, patches, width]`."""
    c = self.config
    table = self.param(
      "tokens",
      _partitioned(nn.initializers.normal(1.0), "vocab", None),
      (c.num_states, c.embed_dim),
    ).astype(c.dtype)
    dense = _dense(c, c.width, ("patch", "embed"), name="embed")
    return lambda z: dense(self._fold(self._embed(table, z)))

  def _time_embedding(self, t: jax.Array, length: int, with_context: bool) -> jax.Array:
    """`[B, T, width]` where `T` times are shared evenly by the positions, often just one."""
    c = self.config
    t = t[:, None] if t.ndim == 1 else t[:, :: c.block or c.patch]
    if with_context:  # which is clean: t = 0
      t = jnp.broadcast_to(t, (t.shape[0], length // c.block_patches))
      t = jnp.concatenate([t, jnp.zeros_like(t)], 1)
    time = nn.silu(_dense(c, c.width, ("patch", "embed"), name="time_in")(_time_features(t, c)))
    return nn.silu(_dense(c, c.width, ("embed", "embed_out"), name="time_out")(time))

  def _embed(self, table: jax.Array, z: jax.Array) -> jax.Array:
    """Value embeddings `[B, positions..., features]`; an image's channels are concatenated."""
    c = self.config
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
      return h.reshape(b, -1, p * f)
    h = h.reshape(b, grid[0], p, grid[1], p, f).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(b, grid[0] * grid[1], p * p * f)

  def _unfold(self, h: jax.Array, features: int) -> jax.Array:
    """The inverse of `_fold`."""
    p, grid = self.config.patch, self.config.grid
    if len(grid) == 1:
      return h.reshape(h.shape[0], -1, features)
    h = h.reshape(h.shape[0], *grid, p, p, features).transpose(0, 1, 3, 2, 4, 5)
    return h.reshape(h.shape[0], grid[0] * p, grid[1] * p, features)


class _Block(nn.Module):
  config: TransformerConfig

  @nn.compact
  def __call__(self, h, time, angles, mask, cache, first):
    c = self.config
    modulation = _dense(c, 6 * c.width, ("embed", "mlp"), zero=True, name="modulation")(time)
    shift1, scale1, gate1, shift2, scale2, gate2 = jnp.split(modulation, 6, -1)
    b, length, _ = h.shape
    mixed = _modulate(h, shift1, scale1)
    if c.conv:
      mixed = self._mix_neighbours(mixed)
    qkv = _dense(c, 3 * c.width, ("embed", "heads"), name="qkv")(mixed)
    q, k, v = jnp.moveaxis(qkv.reshape(b, length, 3, c.heads, c.width // c.heads), 2, 0)
    q = nn.RMSNorm(dtype=c.dtype, name="q_norm")(q)
    k = nn.RMSNorm(dtype=c.dtype, name="k_norm")(k)
    if angles is not None:
      q, k = _rotate(q, *angles), _rotate(k, *angles)
    if cache is not None:
      k = jax.lax.dynamic_update_slice_in_dim(cache.keys, k, first, 1)
      v = jax.lax.dynamic_update_slice_in_dim(cache.values, v, first, 1)
      cache = Cache(k, v)
    attended = jax.nn.dot_product_attention(q, k, v, mask=mask).reshape(b, length, c.width)
    attended = _dense(c, c.width, ("heads", "embed"), name="attended")(attended)
    h += _per_position(gate1, length) * attended
    hidden = _dense(c, c.mlp_ratio * c.width, ("embed", "mlp"), name="mlp_in")(
      _modulate(h, shift2, scale2)
    )
    hidden = _dense(c, c.width, ("mlp", "embed"), name="mlp_out")(nn.gelu(hidden))
    return h + _per_position(gate2, length) * hidden, cache

  def _mix_neighbours(self, h: jax.Array) -> jax.Array:
    """A depthwise convolution that no block looks out of, the identity at first."""
    c = self.config
    centre = c.conv // 2
    kernel = self.param(
      "conv",
      _partitioned(lambda key, shape: jnp.zeros(shape).at[centre].set(1.0), None, "embed"),
      (c.conv, c.width),
    ).astype(c.dtype)
    blocks = h.reshape(-1, min(c.block_patches, h.shape[1]), c.width)
    padded = jnp.pad(blocks, ((0, 0), (centre, c.conv - 1 - centre), (0, 0)))
    shifted = (kernel[i] * padded[:, i : i + blocks.shape[1]] for i in range(c.conv))
    return sum(shifted).reshape(h.shape)


def _attention_mask(
  c: TransformerConfig, length: int, first: jax.Array | int, with_context: bool, cached: bool
) -> jax.Array | None:
  """Which positions see which, bool `[1, 1, queries, keys]`; None where all see all."""
  if cached:
    return jnp.broadcast_to(
      jnp.arange(c.num_patches) < first + length, (1, 1, length, c.num_patches)
    )
  block = jnp.arange(length) // c.block_patches
  earlier, same = block[:, None] > block, block[:, None] == block
  if with_context:
    mask = jnp.block([[same, earlier], [jnp.zeros_like(same), earlier | same]])
  elif c.block_patches < length:
    mask = earlier | same
  else:
    return None
  return mask[None, None]


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
  """Layer norm without parameters, then an affine map per example or per block."""
  wide = h.astype(jnp.float32)
  wide -= wide.mean(-1, keepdims=True)
  wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
  scale, shift = _per_position(scale, h.shape[1]), _per_position(shift, h.shape[1])
  return wide.astype(h.dtype) * (1.0 + scale) + shift


def _per_position(x: jax.Array, length: int) -> jax.Array:
  """`[B, T, F]` to `[B, length, F]`, or left as it is to be broadcast where `T = 1`."""
  return x if x.shape[1] == 1 else jnp.repeat(x, length // x.shape[1], axis=1)


def _time_features(t: jax.Array, c: TransformerConfig) -> jax.Array:
  """Sinusoids of `t` at geometric frequencies from 1 to 1000 radians, `[..., width]`."""
  frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), c.width // 2))
  angles = t[..., None].astype(jnp.float32) * frequencies
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
