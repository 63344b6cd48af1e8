"""What networks are made of: maps with logical axis names, embeddings, norms."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

# A table look-up is a matrix product up to this many states: its gradient, a scatter, is slow.
_ONE_HOT_STATES = 1024

# What the forward pass of a layer leaves for the backward pass. The narrow products, those of the
# network's width, are the cheapest to keep for what it takes to compute them.
_REMAT_POLICIES = {
  "full": jax.checkpoint_policies.nothing_saveable,
  "narrow": jax.checkpoint_policies.save_only_these_names("narrow"),
  "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
  """What networks have in common; `shape` is that of one example, `(D,)` or `(H, W, C)`.

  The last `num_unused` categories never occur. `width`, `depth`, `heads` and `mlp_ratio` are those
  of the transformer; `embed_dim` features stand for one token.
  """

  shape: tuple[int, ...]
  num_states: int
  num_categories: int
  num_unused: int = 0
  width: int = 128
  depth: int = 4
  heads: int = 4
  mlp_ratio: int = 4
  embed_dim: int = 32
  noise_channels: int = 0
  num_classes: int = 0
  dropout: float = 0.0
  dtype: Any = jnp.float32
  remat: str = "none"


def remat(layer: type[nn.Module], policy: str, in_loop: bool = False) -> type[nn.Module]:
  """A layer whose backward pass computes again what the policy of that name does not save."""
  if policy == "none":
    return layer
  # Outside of a loop XLA would find that the same is computed twice, and save it after all.
  return nn.remat(layer, prevent_cse=not in_loop, policy=_REMAT_POLICIES[policy])


def partitioned(initializer, *names):
  return nn.with_logical_partitioning(initializer, names)


def split_examples(h: jax.Array) -> jax.Array:
  """Says that the first axis of an activation is that of examples, and no other is split.

  A single example, which stands for all, is left alone: its parts would have to be moved.
  """
  if len(h) == 1:
    return h
  return nn.with_logical_constraint(h, ("batch",) + (None,) * (h.ndim - 1))


def dense(features: int, axes: tuple, dtype, zero: bool = False, name: str | None = None):
  """An affine map of the last axis."""
  layer = affine(features, axes, dtype, zero, name)
  return lambda h: apply_flat(layer, h)


def logits(features: int, dtype, use_bias: bool = True) -> nn.Dense:
  """A module for `apply_flat`: the head of a network, zero at first.

  Its products are float32 from the start; to round them to bfloat16 would cost precision, and
  passes over the largest arrays.
  """
  in_float32 = functools.partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
  settings = {"dot_general": in_float32, "use_bias": use_bias}
  return affine(features, ("embed", "vocab"), dtype, zero=True, **settings)


def without_unused(logits: jax.Array, c: NetworkConfig) -> jax.Array:
  """Logits `[..., K]` of which the unused categories have no chance, and finite logarithms."""
  if not c.num_unused:
    return logits
  # Added as a bias is, which compilers fuse into the product; a choice would be a pass of its own.
  is_used = jnp.arange(c.num_categories) < c.num_categories - c.num_unused
  return logits + jnp.where(is_used, 0.0, -1e9)


def affine(
  features: int, axes: tuple, dtype, zero: bool = False, name: str | None = None, **settings
) -> nn.Dense:
  """A module for `apply_flat`, with logical axis names."""
  initializer = nn.initializers.zeros if zero else nn.initializers.xavier_uniform()
  return nn.Dense(
    features,
    dtype=dtype,
    kernel_init=partitioned(initializer, *axes),
    bias_init=partitioned(nn.initializers.zeros, axes[-1]),
    name=name,
    **settings,
  )


def apply_flat(layer: nn.Dense, h: jax.Array) -> jax.Array:
  """An affine map of the last axis, as one product of two matrices.

  With more than two axes the gradient of the kernel contracts several of them at once, for which
  XLA's CPU backend first transposes both operands: twice the time of the whole backward pass.
  """
  return layer(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], layer.features)


class Dropout(nn.Module):
  """Features of `h` are zero at a `rate`, to the nearest 1/256, and the others larger for it.

  A TPU spends more on a random number for every feature than on the product after it: here four
  features share the 32 bits of one.
  """

  rate: float
  training: bool

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    dropped, features = min(round(256 * self.rate), 255), h.shape[-1]
    if not self.training or not dropped:
      return h
    bits = jax.random.bits(self.make_rng("dropout"), (*h.shape[:-1], -(-features // 4)))
    kept = jnp.concatenate([(bits >> shift) % 256 >= dropped for shift in (0, 8, 16, 24)], -1)
    return jnp.where(kept[..., :features], h * (256 / (256 - dropped)), 0.0)


def embed_states(table: jax.Array, z: jax.Array, dtype) -> jax.Array:
  """Rows of a table `[states, features]` for tokens int `[...]`."""
  table = table.astype(dtype)
  if len(table) <= _ONE_HOT_STATES:
    return jax.nn.one_hot(z, len(table), dtype=dtype) @ table
  return table[z]


def fold(h: jax.Array, p: int) -> jax.Array:
  """Squares of `p` by `p` pixels as one: `[B, H, W, F]` to `[B, H/p, W/p, p*p*F]`."""
  b, height, width, f = h.shape
  h = h.reshape(b, height // p, p, width // p, p, f).transpose(0, 1, 3, 2, 4, 5)
  return h.reshape(b, height // p, width // p, p * p * f)


def unfold(h: jax.Array, p: int) -> jax.Array:
  """The inverse of `fold`."""
  b, height, width, f = h.shape
  h = h.reshape(b, height, width, p, p, f // p**2).transpose(0, 1, 3, 2, 4, 5)
  return h.reshape(b, height * p, width * p, f // p**2)


def time_embedding(t: jax.Array, width: int, dtype) -> jax.Array:
  """Times `[...]` as `[..., width]`: sinusoids of 1 to 1000 radians through two layers."""
  frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), width // 2))
  angles = t[..., None].astype(jnp.float32) * frequencies
  features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1).astype(dtype)
  hidden = nn.silu(dense(width, ("patch", "embed"), dtype, name="time_in")(features))
  return dense(width, ("embed", "embed_out"), dtype, name="time_out")(hidden)


def condition(time: jax.Array, labels: jax.Array | None, num_classes: int) -> jax.Array:
  """What layers are modulated by: time `[B, T, width]`, and labels `[B]` where there are classes.

  The label `num_classes` stands for none; so does leaving them out.
  """
  if num_classes:
    table = nn.Embed(
      num_classes + 1,
      time.shape[-1],
      embedding_init=partitioned(nn.initializers.normal(0.02), None, "embed"),
      dtype=time.dtype,
      name="classes",
    )
    labels = jnp.full(len(time), num_classes) if labels is None else labels
    time += table(labels)[:, None]
  return split_examples(nn.silu(time))


def modulation(time: jax.Array, width: int, parts: int, dtype, name: str = "modulation"):
  """`parts` of scales, shifts and gates `[B, T, width]`, zero at first (DiT, arXiv 2212.09748)."""
  layer = dense(parts * width, ("embed", "embed_out"), dtype, zero=True, name=name)
  return jnp.split(layer(time), parts, -1)


def modulate(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """Layer norm of the last axis without parameters, then an affine map that broadcasts."""
  wide = h.astype(jnp.float32)
  wide -= wide.mean(-1, keepdims=True)
  wide *= jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + 1e-6)
  return wide.astype(h.dtype) * (1.0 + scale) + shift


def modulate_positions(h: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
  """`modulate` of `h` `[B, positions, F]` with `T` shifts and scales that share the positions."""
  return modulate(h, per_position(shift, h.shape[1]), per_position(scale, h.shape[1]))


def per_position(x: jax.Array, length: int) -> jax.Array:
  """`[B, T, F]` to `[B, length, F]`, or left as it is to be broadcast where `T = 1`."""
  return x if x.shape[1] == 1 else jnp.repeat(x, length // x.shape[1], axis=1)
