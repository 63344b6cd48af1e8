"""A network for sequences and images that compiles quickly, with a head as large ones have it."""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from dmmd_jax.diffusion import processes
from dmmd_jax.phases import build


@dataclasses.dataclass(frozen=True)
class PairsConfig:
  num_classes: int
  block: int
  dtype: jnp.dtype


class Pairs(nn.Module):
  """Features of pairs of tokens, or of rows of pixels, that see each other through their mean.

  The head makes the logits of both of a pair, so that features have half as many positions.
  """

  config: PairsConfig
  num_states: int
  num_categories: int
  noise_channels: int

  def setup(self):
    self.logits = nn.Dense(2 * self.num_categories, dtype=self.config.dtype)

  def __call__(self, *args, **kwargs):
    return self.head(self.features(*args, **kwargs))

  def head(self, features):
    logits = self.logits(features).reshape(*features.shape[:-1], 2, self.num_categories)
    logits = jnp.moveaxis(logits, -2, 2)
    logits = logits.reshape(len(logits), -1, *logits.shape[3:])
    logits = logits.astype(jnp.float32)
    return logits[..., None, :] if logits.ndim == 4 else logits

  @nn.compact
  def features(self, z, t, noise=None, labels=None, context=None, training=False):
    embed = nn.Embed(self.num_states, 8)
    h = embed(z if z.ndim == 2 else z[..., 0])
    h += jnp.sin(h.mean(1, keepdims=True)) + processes.expand(t, h)
    if context is not None:
      h += jnp.roll(embed(context), 8, 1)
    if labels is not None:
      h += processes.expand(nn.Embed(self.config.num_classes + 1, 1)(labels), h)
    if self.noise_channels:
      h += nn.Dense(8)(noise)
    h = h.astype(self.config.dtype)
    return jnp.sin(h[:, ::2]) + jnp.roll(h[:, 1::2], 1, -1)


def in_pairs(monkeypatch):
  """Every network that is made is one of pairs, from here on."""

  def make_network(config, dataset, num_states, noise_channels=0, **sizes):
    c = config.network
    classes = dataset.num_classes if c.classes else 0
    sizes = PairsConfig(classes, c.block, jnp.dtype(c.dtype))
    return Pairs(sizes, num_states, dataset.num_categories, noise_channels)

  monkeypatch.setattr(build, "make_network", make_network)
