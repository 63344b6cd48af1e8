"""A transformer that predicts clean tokens, for sequences and (patchified) images.

Bidirectional; in blocks (bidirectional within a block, causal between them); or causal.
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmmd_jax.networks import blocks, layers
from dmmd_jax.networks.blocks import Cache
from dmmd_jax.networks.layers import NetworkConfig, dense, partitioned


@dataclasses.dataclass(frozen=True)
class TransformerConfig(NetworkConfig):
  """Sizes of a transformer, for which `patch` tokens, or squares of so many pixels, are one.

  `block` tokens of a sequence are one block, which sees itself and the blocks before it; 0 is the
  whole example. `block = 1` is causal. `conv` tokens, within a block, are mixed before attention.
  """

  patch: int = 1
  positions: str = "rotary"
  conv: int = 0
  block: int = 0

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

  def empty_cache(self, batch_size: int) -> Cache:
    return Cache.empty(self, batch_size, self.num_patches)


class Transformer(nn.Module):
  """Logits float32 `[B, ..., K]` of the clean tokens given tokens int `[B, ...]` and `t`.

  `t` is `[B]`, or `[B, D]` with one time per block. Adaptive layer norm on time and class
  (`labels` int `[B]`) with zero-initialised gates (DiT, arXiv 2212.09748), QK-norm, rotary or
  learned positions, zero-initialised output, layers under `lax.scan`.

  A network of several blocks is trained in one pass (BD3-LM, arXiv 2503.09573): with `context`, the
  clean tokens int `[B, D]`, a block of `z` sees itself and the clean blocks before it. It samples
  with a `cache`: `z` is then one block, `start` the number of tokens before it, and the result
  `(logits, cache)` with the keys and values of that block written.
  """

  config: TransformerConfig

  def setup(self):
    c = self.config
    channels = c.shape[2] if len(c.shape) == 3 else 1
    features = c.patch ** len(c.grid) * channels * c.num_categories
    self.logits = layers.logits(features, c.dtype)

  def __call__(self, z: jax.Array, t: jax.Array, *args, **kwargs):
    features = self.features(z, t, *args, **kwargs)
    if isinstance(features, tuple):
      features, cache = features
      return self.head(features), cache
    return self.head(features)

  def head(self, features: jax.Array) -> jax.Array:
    """Logits of features `[B, patches, width]`, or `[B, H/p, W/p, width]` of images."""
    c = self.config
    logits = layers.apply_flat(self.logits, features)
    if len(c.grid) == 2:
      logits = layers.unfold(logits, c.patch)
      shape = (*logits.shape[:3], c.shape[2])
    else:
      shape = (len(logits), -1)
    return layers.without_unused(logits.reshape(*shape, c.num_categories), c)

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
    c = self.config
    first = start // c.patch
    embed = self._token_embedding()
    h = embed(z)
    if c.noise_channels and noise is not None:
      # Zero at first, so that a student starts as its teacher.
      h += dense(c.width, ("patch", "embed"), c.dtype, zero=True, name="noise")(
        self._fold(noise.astype(c.dtype))
      )
    length = h.shape[1]
    with_context = context is not None
    mask = blocks.attention_mask(
      length, c.num_patches, c.block_patches, first, with_context, cache is not None
    )
    if context is not None:
      h = jnp.concatenate([h, embed(context)], 1)
    t = blocks.block_times(t, c.block or c.patch, length // c.block_patches, with_context)
    time = layers.time_embedding(t, c.width, c.dtype)
    time = layers.condition(time, labels, c.num_classes)
    place = first + jnp.arange(length)
    place = jnp.concatenate([place, place]) if context is not None else place
    angles = None
    if c.positions == "learned":
      table = self.param(
        "positions",
        partitioned(nn.initializers.normal(0.02), None, "embed"),
        (c.num_patches, c.width),
      )
      h += table[place].astype(c.dtype)
    else:
      angles = blocks.rotary_angles(c.grid, c.width // c.heads, c.dtype)
      angles = tuple(a[:, place] for a in angles)
    stack = blocks.scan_blocks(c, training, "layers", c.block_patches, c.conv)
    h, cache = stack(h, time, angles, mask, cache, first)
    h = layers.modulate_positions(h, *layers.modulation(time, c.width, 2, c.dtype, "out_norm"))
    h = h[:, :length]
    if len(c.grid) == 2:
      h = h.reshape(len(h), *c.grid, c.width)
    return h if cache is None else (h, cache)

  def _token_embedding(self):
    """Tokens `[B, ...]` to `[B, patches, width]`; the values of a pixel's channels together."""
    c = self.config
    table = self.param(
      "tokens",
      partitioned(nn.initializers.normal(1.0), "vocab", None),
      (c.num_states, c.embed_dim),
    )
    layer = dense(c.width, ("patch", "embed"), c.dtype, name="embed")

    def embed(z):
      embedded = layers.embed_states(table, z, c.dtype)
      return layer(self._fold(embedded.reshape((*z.shape[: 1 + len(c.grid)], -1))))

    return embed

  def _fold(self, h: jax.Array) -> jax.Array:
    """`[B, H, W, F]` or `[B, D, F]` to patches `[B, patches, p*p*F]` or `[B, patches, p*F]`."""
    p, grid = self.config.patch, self.config.grid
    b, f = h.shape[0], h.shape[-1]
    if len(grid) == 1:
      return h.reshape(b, -1, p * f)
    return layers.fold(h, p).reshape(b, -1, p * p * f)
