"""The bidirectional transformer of LLaDA and Dream, that of Llama and Qwen without a mask."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dmmd_jax.networks import blocks, layers, pretrained
from dmmd_jax.networks.attention import attend
from dmmd_jax.networks.blocks import FromHeads, rotate
from dmmd_jax.networks.layers import partitioned
from dmmd_jax.networks.pretrained import PretrainedConfig


@dataclasses.dataclass(frozen=True)
class LlamaConfig(PretrainedConfig):
  """Sizes: `kv_heads` of keys and values are shared by all `heads` of queries.

  A perceptron has `hidden` features. `qkv_bias` is Qwen's. Where the network is `shifted`, logits
  at a position are of the token after it, as those of the causal model that it was made from.
  """

  kv_heads: int = 4
  hidden: int = 512
  rotary_base: float = 10_000.0
  norm_epsilon: float = 1e-5
  qkv_bias: bool = False
  shifted: bool = False


class Llama(nn.Module):
  """Logits float32 `[B, D, K]` of the clean tokens given tokens int `[B, D]`, whatever the time.

  Of arXiv 2502.09992 (LLaDA), 2508.15487 (Dream).
  """

  config: LlamaConfig

  def setup(self):
    self.logits = layers.logits(self.config.num_categories, self.config.dtype, use_bias=False)

  def __call__(self, z: jax.Array, t: jax.Array, *args, **kwargs) -> jax.Array:
    return self.head(self.features(z, t, *args, **kwargs))

  def head(self, features: jax.Array) -> jax.Array:
    """Logits of features `[B, D, width]`."""
    return pretrained.only_clean(layers.apply_flat(self.logits, features), self.config)

  @nn.compact
  def features(
    self,
    z: jax.Array,
    t: jax.Array,
    noise: jax.Array | None = None,
    labels: jax.Array | None = None,
    training: bool = False,
  ) -> jax.Array:
    del t, labels, training  # it knows no time and no classes, and has no dropout
    c = self.config
    h = pretrained.add_noise(pretrained.embedding(self, c)(z), noise, c)
    angles = blocks.rotary_angles(z.shape[1:], c.width // c.heads, jnp.float32, c.rotary_base)
    stack = blocks.scan_layers(LlamaBlock, c, name="layers")
    h, _ = stack(h, None, angles, None, None, 0)
    h = _norm(c, "out_norm")(h).astype(c.dtype)
    return jnp.concatenate([h[:, :1], h[:, :-1]], 1) if c.shifted else h


class LlamaBlock(nn.Module):
  """Attention and a gated perceptron, each after the norm of its input."""

  config: LlamaConfig

  @nn.compact
  def __call__(self, h, time, angles, mask, cache, first):
    del time, first
    c = self.config
    h = layers.split_examples(h)
    normed = _norm(c, "attention_norm")(h).astype(c.dtype)
    q, k, v = (_Heads(c, heads, name=name)(normed) for name, heads in _projections(c))
    q, k = (rotate(x.astype(jnp.float32), *angles).astype(c.dtype) for x in (q, k))
    k, v = (jnp.repeat(x, c.heads // c.kv_heads, axis=1) for x in (k, v))
    attended = FromHeads(c.width, c.dtype, use_bias=False, name="attended")(attend(q, k, v, mask))
    h += checkpoint_name(attended, "narrow")
    normed = _norm(c, "mlp_norm")(h).astype(c.dtype)
    hidden = nn.silu(_linear(c.hidden, ("embed", "mlp"), c, "mlp_gate")(normed))
    hidden *= _linear(c.hidden, ("embed", "mlp"), c, "mlp_in")(normed)
    hidden = _linear(c.width, ("mlp", "embed"), c, "mlp_out")(hidden)
    return h + checkpoint_name(hidden, "narrow"), cache


class _Heads(nn.Module):
  """An affine map of `[B, positions, width]` to `[B, heads, features, positions]`."""

  config: LlamaConfig
  heads: int

  @nn.compact
  def __call__(self, h: jax.Array) -> jax.Array:
    c = self.config
    features = c.width // c.heads
    kernel = self.param(
      "kernel",
      partitioned(nn.initializers.xavier_uniform(), "embed", "heads"),
      (c.width, self.heads * features),
    )
    kernel = kernel.astype(c.dtype).reshape(c.width, self.heads, features)
    mapped = jnp.einsum("bld,dhf->bhfl", h, kernel)
    if not c.qkv_bias:
      return mapped
    zeros = partitioned(nn.initializers.zeros, "heads")
    bias = self.param("bias", zeros, (self.heads * features,))
    return mapped + bias.astype(c.dtype).reshape(self.heads, features, 1)


def _projections(c: LlamaConfig) -> tuple[tuple[str, int], ...]:
  return ("query", c.heads), ("key", c.kv_heads), ("value", c.kv_heads)


def _linear(features: int, axes: tuple, c: LlamaConfig, name: str):
  layer = layers.affine(features, axes, c.dtype, name=name, use_bias=False)
  return lambda h: layers.apply_flat(layer, h)


def _norm(c: LlamaConfig, name: str) -> nn.RMSNorm:
  """In float32."""
  scale_init = partitioned(nn.initializers.ones, "embed")
  return nn.RMSNorm(
    epsilon=c.norm_epsilon, dtype=jnp.float32, scale_init=scale_init, use_fast_variance=False,
    name=name,
  )  # fmt: skip
