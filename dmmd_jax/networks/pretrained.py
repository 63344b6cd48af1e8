"""What networks of tokens that others have trained have in common, whatever their layers."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmmd_jax.networks import layers
from dmmd_jax.networks.layers import NetworkConfig, partitioned


@dataclasses.dataclass(frozen=True)
class PretrainedConfig(NetworkConfig):
  """Sizes of a network of token sequences with a table of `num_categories` rows.

  The state `num_categories`, a mask, has the row `mask_token` of the table, which as a clean token
  never occurs; a network of uniform diffusion has no such state, and its `mask_token` is -1.
  """

  mask_token: int = -1


def embedding(module: nn.Module, c: PretrainedConfig):
  """`embed(z)` of tokens int `[B, D]`, `[B, D, width]`, by a table, a parameter of a module."""
  table = module.param(
    "tokens",
    partitioned(nn.initializers.normal(0.02), "vocab", "embed"),
    (c.num_categories, c.width),
  )

  def embed(z: jax.Array) -> jax.Array:
    row = z if c.mask_token < 0 else jnp.where(z == c.num_categories, c.mask_token, z)
    return layers.embed_states(table, row, c.dtype)

  return embed


def only_clean(logits: jax.Array, c: PretrainedConfig) -> jax.Array:
  """Logits `[..., K]` of which what never occurs in data has no chance, the mask among it."""
  logits = layers.without_unused(logits, c)
  if not 0 <= c.mask_token < c.num_categories - c.num_unused:
    return logits
  return logits + jnp.where(jnp.arange(c.num_categories) == c.mask_token, -1e9, 0.0)


def add_noise(h: jax.Array, noise: jax.Array | None, c: PretrainedConfig) -> jax.Array:
  """Embeddings `[B, D, width]` and a map of noise `[B, D, channels]`, within a compact method.

  It is zero at first, so that a student starts as its teacher.
  """
  if not c.noise_channels or noise is None:
    return h
  layer = layers.dense(c.width, ("patch", "embed"), c.dtype, zero=True, name="noise")
  return h + layer(noise.astype(c.dtype))
