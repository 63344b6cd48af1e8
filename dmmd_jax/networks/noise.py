"""Noise inputs of a student: where the joint choice over all tokens comes from."""

import math

import jax
import jax.numpy as jnp


def sample_noise(
  key: jax.Array, kind: str, batch_size: int, shape: tuple[int, ...], dim: int
) -> jax.Array | None:
  """Draws noise for tokens of `shape` (without the batch): None, or float32 `[B, ..., channels]`.

  `none`; `gaussian`: `dim` numbers per position; `pyramid`: for images `(H, W, C)`, `dim` Gaussian
  maps at each of the resolutions `H, H/2, ..., 1`, coarse for global choices and fine for local
  ones, enlarged to `H x W` and stacked (D-MMD, section 4); `latent`: one `lambda ~ U[0, 1]` per
  example, the same `dim` features of it at every position (Di4C, arXiv 2410.08709). The first `dim`
  channels of a pyramid are `gaussian`. `key` may be an array `[B]`, of which each example has one.
  """
  if kind == "none":
    return None
  if key.ndim:
    return jax.vmap(lambda one: sample_noise(one, kind, 1, shape, dim)[0])(key)
  positions = shape[:2] if len(shape) == 3 else shape
  if kind == "latent":
    features = latent_features(jax.random.uniform(key, (batch_size,)), dim)
    features = features.reshape(batch_size, *(1,) * len(positions), dim)
    return jnp.broadcast_to(features, (batch_size, *positions, dim))
  if kind == "gaussian":
    return jax.random.normal(key, (batch_size, *positions, dim))
  height, width, _ = shape
  maps = []
  for level, map_key in enumerate(jax.random.split(key, pyramid_levels(height, width))):
    factor = 2**level
    coarse = (batch_size, -(-height // factor), -(-width // factor), dim)
    fine = jax.random.normal(map_key, coarse).repeat(factor, 1).repeat(factor, 2)
    maps.append(fine[:, :height, :width])
  return jnp.concatenate(maps, -1)


def latent_features(latent: jax.Array, dim: int) -> jax.Array:
  """`sqrt(2) cos(pi k lambda)`, `k = 1, ..., dim`, of `lambda` in [0, 1] `[B]`: `[B, dim]`.

  Of `lambda ~ U[0, 1]` they have mean 0 and variance 1, and are uncorrelated.
  """
  return math.sqrt(2.0) * jnp.cos(jnp.pi * latent[:, None] * jnp.arange(1, dim + 1))


def pyramid_levels(height: int, width: int) -> int:
  """Number of resolutions from `height x width` down to one pixel, halving."""
  return (max(height, width) - 1).bit_length() + 1


def noise_channels(kind: str, shape: tuple[int, ...], dim: int) -> int:
  """Size of the last axis of what `sample_noise` draws; 0 for `none`."""
  if kind == "none":
    return 0
  return dim * pyramid_levels(*shape[:2]) if kind == "pyramid" else dim
