"""The diffusion transformer of MDLM, SEDD, BD3-LM and Duo, for teachers that these have trained."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dmmd_jax.networks import blocks, layers, pretrained
from dmmd_jax.networks.attention import attend
from dmmd_jax.networks.blocks import Cache, FromHeads, ToHeads, rotate
from dmmd_jax.networks.layers import dense, partitioned, per_position
from dmmd_jax.networks.pretrained import PretrainedConfig

# Frequencies of the embedding of sigma, of which each has a cosine and a sine.
_FREQUENCIES = 128
# The least share of clean tokens, that of t = 1, which their schedules go down to.
_LEAST_ALPHA = 1e-3


@dataclasses.dataclass(frozen=True)
class DiTConfig(PretrainedConfig):
  """Sizes of a DiT; `cond_dim` are the features of its conditioning, 0 for a network without any.

  With `time` "sigma" it is given `-log alpha(t)` of the linear schedule; with "none" always 0, as
  in MDLM and BD3-LM. `block` tokens are one block, which sees itself and the blocks before it; 0 is
  the whole example.
  """

  cond_dim: int = 128
  time: str = "none"
  block: int = 0

  @property
  def block_length(self) -> int:
    return self.block or self.shape[0]

  def empty_cache(self, batch_size: int) -> Cache:
    return Cache.empty(self, batch_size, self.shape[0])


class DiT(nn.Module):
  """Logits float32 `[B, D, K]` of the clean tokens given tokens int `[B, D]` and times `t`.

  `t` is `[B]`, or `[B, D]` with one time per block. With `context`, the clean tokens int `[B, D]`,
  a block of `z` sees itself and the clean blocks before it; with a `cache` `z` is one block,
  `start` the number of tokens before it, and the result `(logits, cache)`. See `Transformer`. Of
  arXiv 2406.07524 (MDLM), 2310.16834 (SEDD), 2503.09573 (BD3-LM), 2506.10892 (Duo).
  """

  config: DiTConfig

  def setup(self):
    self.logits = layers.logits(self.config.num_categories, self.config.dtype)

  def __call__(self, z: jax.Array, t: jax.Array, *args, **kwargs):
    features = self.features(z, t, *args, **kwargs)
    if isinstance(features, tuple):
      features, cache = features
      return self.head(features), cache
    return self.head(features)

  def head(self, features: jax.Array) -> jax.Array:
    """Logits of features `[B, D, width]`."""
    return pretrained.only_clean(layers.apply_flat(self.logits, features), self.config)

  @nn.compact
  def features(
    self,
    z: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    context: jax.Array | None = None,
    cache: Cache | None = None,
    start: jax.Array | int = 0,
    labels: jax.Array | None = None,
    training: bool = False,
  ):
    del labels  # none of them knows classes
    c, length, with_context = self.config, z.shape[1], context is not None
    embed = pretrained.embedding(self, c)
    h = pretrained.add_noise(embed(z), noise, c)
    place = start + jnp.arange(length)
    if with_context:
      h = jnp.concatenate([h, embed(context)], 1)
      place = jnp.concatenate([place, place])
    mask = blocks.attention_mask(
      length, c.shape[0], c.block_length, start, with_context, cache is not None
    )
    angles = blocks.rotary_angles(c.shape, c.width // c.heads, c.dtype)
    angles = tuple(a[:, place] for a in angles)
    condition = None
    if c.cond_dim:
      condition = self._condition(t, length // c.block_length, with_context)
    stack = blocks.scan_layers(DiTBlock, c, training, name="layers")
    h, cache = stack(h, condition, angles, mask, cache, start)
    shift, scale = _modulation(c, condition, 2, "out_modulation")
    h = _modulated_norm(c, "out_norm", h, shift, scale)[:, :length]
    return h if cache is None else (h, cache)

  def _condition(self, t: jax.Array, num_blocks: int, with_context: bool) -> jax.Array:
    """What layers are modulated by, `[B, T, cond_dim]`; `[1, 1, cond_dim]` of a constant."""
    c = self.config
    sigma = jnp.zeros((1, 1))
    if c.time == "sigma":
      t = blocks.block_times(t, c.block_length, num_blocks, with_context)
      sigma = -jnp.log1p(-jnp.minimum(t, 1.0 - _LEAST_ALPHA))
    frequencies = jnp.exp(-math.log(1e4) * jnp.arange(_FREQUENCIES) / _FREQUENCIES)
    angles = sigma[..., None] * frequencies
    waves = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], -1).astype(c.dtype)
    hidden = nn.silu(dense(c.cond_dim, ("patch", None), c.dtype, name="time_in")(waves))
    return nn.silu(dense(c.cond_dim, ("patch", None), c.dtype, name="time_out")(hidden))


class DiTBlock(nn.Module):
  """Attention and a perceptron; norms with weights, and shifts, scales and gates if conditioned."""

  config: DiTConfig
  training: bool

  @nn.compact
  def __call__(self, h, condition, angles, mask, cache, first):
    c = self.config
    h, length = layers.split_examples(h), h.shape[1]
    shift1, scale1, gate1, shift2, scale2, gate2 = _modulation(c, condition, 6, "modulation")
    normed = _modulated_norm(c, "norm1", h, shift1, scale1)
    q, k, v = ToHeads(c.heads, c.dtype, use_bias=False, name="qkv")(normed)
    q, k = rotate(q, *angles), rotate(k, *angles)
    if cache is not None:
      k, v = cache = cache.append(k, v, first)
    attended = attend(q, k, v, mask)
    attended = FromHeads(c.width, c.dtype, use_bias=False, name="attended")(attended)
    h += self._gated(gate1, attended, length)
    normed = _modulated_norm(c, "norm2", h, shift2, scale2)
    hidden = dense(c.mlp_ratio * c.width, ("embed", "mlp"), c.dtype, name="mlp_in")(normed)
    hidden = nn.gelu(hidden, approximate=True)
    hidden = dense(c.width, ("mlp", "embed"), c.dtype, name="mlp_out")(hidden)
    return h + self._gated(gate2, hidden, length), cache

  def _gated(self, gate: jax.Array | None, h: jax.Array, length: int) -> jax.Array:
    h = layers.Dropout(self.config.dropout, self.training)(checkpoint_name(h, "narrow"))
    return h if gate is None else per_position(gate, length) * h


def _modulation(c: DiTConfig, condition: jax.Array | None, parts: int, name: str):
  """`parts` of shifts, scales and gates `[B, T, width]`; None each without a condition."""
  if condition is None:
    return [None] * parts
  return layers.modulation(condition, c.width, parts, c.dtype, name)


def _modulated_norm(
  c: DiTConfig, name: str, h: jax.Array, shift: jax.Array | None, scale: jax.Array | None
) -> jax.Array:
  """Layer norm with a weight, in float32, then an affine map if conditioned."""
  h = nn.LayerNorm(
    epsilon=1e-5,
    use_bias=False,
    use_fast_variance=False,
    dtype=jnp.float32,
    scale_init=partitioned(nn.initializers.ones, "embed"),
    name=name,
  )(h).astype(c.dtype)
  if shift is None:
    return h
  return h * (1.0 + per_position(scale, h.shape[1])) + per_position(shift, h.shape[1])
