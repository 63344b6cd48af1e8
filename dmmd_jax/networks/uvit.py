"""A U-shaped vision transformer that predicts clean pixels.

Convolutional residual blocks where the image is large, a transformer where it is small, and skips
between the two ways (simple diffusion, arXiv 2301.11093).
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmmd_jax.networks import blocks, layers
from dmmd_jax.networks.layers import NetworkConfig, dense, partitioned


@dataclasses.dataclass(frozen=True)
class UViTConfig(NetworkConfig):
  """Sizes of a U-ViT for images of `shape` `(H, W, C)`.

  `channels` are the features at full resolution, at half of it, and so on, with `res_blocks`
  residual blocks each on the way down and as many on the way up. The transformer works at half the
  last of these resolutions. `embed_dim` features stand for one channel of a pixel.
  """

  channels: tuple[int, ...] = (64,)
  res_blocks: int = 2

  @property
  def grid(self) -> tuple[int, int]:
    """Height and width of what the transformer sees."""
    return tuple(side // 2 ** len(self.channels) for side in self.shape[:2])


class UViT(nn.Module):
  """Logits float32 `[B, H, W, C, K]` of the clean tokens given tokens int `[B, H, W, C]` and `t`.

  Time `[B]` and class `labels` int `[B]` act on every block by adaptive norm with zero-initialised
  gates; `noise` `[B, H, W, channels]` enters at full resolution through a projection that starts at
  zero; the output starts at zero.
  """

  config: UViTConfig

  def setup(self):
    c = self.config
    features = c.shape[2] * c.num_categories
    self.logits = layers.logits(features, c.dtype)

  def __call__(self, z: jax.Array, t: jax.Array, *args, **kwargs) -> jax.Array:
    return self.head(self.features(z, t, *args, **kwargs))

  def head(self, features: jax.Array) -> jax.Array:
    """Logits of features `[B, H, W, channels]`."""
    c = self.config
    logits = layers.apply_flat(self.logits, features)
    return logits.reshape(*features.shape[:3], c.shape[2], c.num_categories)

  @nn.compact
  def features(
    self,
    z: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    labels: jax.Array | None = None,
    training: bool = False,
  ) -> jax.Array:
    c = self.config
    time = layers.time_embedding(t[:, None], c.width, c.dtype)
    time = layers.condition(time, labels, c.num_classes)
    h = dense(c.channels[0], ("patch", "embed"), c.dtype, name="embed")(self._embed_values(z))
    if c.noise_channels and noise is not None:
      h += dense(c.channels[0], ("patch", "embed"), c.dtype, zero=True, name="noise")(
        noise.astype(c.dtype)
      )
    # Not scanned: these blocks are few, and XLA's CPU backend takes sixty times as long for the
    # gradient of a convolution inside of a loop.
    res_block = layers.remat(_ResBlock, c.remat)
    skips = []
    for level, below in enumerate((*c.channels[1:], c.width)):
      for i in range(c.res_blocks):
        h = res_block(c, c.channels[level], training, name=f"down_{level}_block_{i}")(h, time)
        skips.append(h)
      h = dense(below, ("patch", "embed"), c.dtype, name=f"down_{level}")(layers.fold(h, 2))
    angles = blocks.rotary_angles(c.grid, c.width // c.heads, c.dtype)
    h = h.reshape(len(z), -1, c.width)
    h, _ = blocks.scan_blocks(c, training, "layers")(h, time, angles, None, None, 0)
    h = h.reshape(len(z), *c.grid, c.width)
    for level, features in reversed(list(enumerate(c.channels))):
      h = dense(4 * features, ("embed", "mlp"), c.dtype, name=f"up_{level}")(h)
      h = layers.unfold(h, 2)
      for i in range(c.res_blocks):
        both = jnp.concatenate([h, skips.pop()], -1)
        h = dense(features, ("mlp", "embed"), c.dtype, name=f"up_{level}_join_{i}")(both)
        h = res_block(c, features, training, name=f"up_{level}_block_{i}")(h, time)
    shift, scale = layers.modulation(time, c.channels[0], 2, c.dtype, "out_norm")
    return layers.modulate(h, shift[:, :, None], scale[:, :, None])

  def _embed_values(self, z: jax.Array) -> jax.Array:
    """A table of values for every channel; those of a pixel `[B, H, W, C * embed_dim]` together."""
    c = self.config
    table = self.param(
      "tokens",
      partitioned(nn.initializers.normal(1.0), None, "vocab", None),
      (c.shape[2], c.num_states, c.embed_dim),
    )
    parts = [layers.embed_states(rows, z[..., i], c.dtype) for i, rows in enumerate(table)]
    return jnp.concatenate(parts, -1)


class _ResBlock(nn.Module):
  """Two 3x3 convolutions with adaptive norm, gated; `h` `[B, H, W, features]`."""

  config: UViTConfig
  features: int
  training: bool

  @nn.compact
  def __call__(self, h, time):
    c = self.config
    h = layers.split_examples(h)
    parts = layers.modulation(time, self.features, 5, c.dtype)
    shift1, scale1, shift2, scale2, gate = (x[:, :, None] for x in parts)
    hidden = nn.silu(layers.modulate(h, shift1, scale1))
    hidden = self._conv(("embed", "mlp"), "conv_in")(hidden)
    hidden = nn.silu(layers.modulate(hidden, shift2, scale2))
    hidden = layers.Dropout(c.dropout, self.training)(hidden)
    return h + gate * self._conv(("mlp", "embed"), "conv_out")(hidden)

  def _conv(self, axes: tuple[str, str], name: str) -> nn.Conv:
    return nn.Conv(
      self.features,
      (3, 3),
      dtype=self.config.dtype,
      kernel_init=partitioned(nn.initializers.xavier_uniform(), None, None, *axes),
      bias_init=partitioned(nn.initializers.zeros, axes[-1]),
      name=name,
    )
