"""GPT-2 as published (Radford et al. 2019), with weights read from a Hugging Face folder."""

import dataclasses
import json
import os
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.networks.attention import attend
from dmmd_jax.networks.layers import remat, split_examples
from dmmd_jax.networks.weights import WeightsError, check_finite


@dataclasses.dataclass(frozen=True)
class GPT2Config:
  """Sizes, named as in `config.json`; the defaults are those of the small model."""

  vocab_size: int = 50257
  n_positions: int = 1024
  n_embd: int = 768
  n_layer: int = 12
  n_head: int = 12
  layer_norm_epsilon: float = 1e-5


class GPT2(nn.Module):
  """Logits float32 `[B, D, vocabulary]` of the token after each of tokens int `[B, D]`."""

  config: GPT2Config

  def setup(self):
    self.wte = nn.Embed(self.config.vocab_size, self.config.n_embd)

  def __call__(self, tokens: jax.Array) -> jax.Array:
    return self.head(self.features(tokens))

  def head(self, features: jax.Array) -> jax.Array:
    """Logits of features `[B, D, n_embd]`."""
    return self.wte.attend(features)

  @nn.compact
  def features(self, tokens: jax.Array) -> jax.Array:
    """What the logits are computed of, `[B, D, n_embd]`."""
    c = self.config
    places = nn.Embed(c.n_positions, c.n_embd, name="wpe")(jnp.arange(tokens.shape[1]))
    h = self.wte(tokens) + places
    # Gradients compute layers again: 256 texts leave more than 16 TPUs have memory for.
    layer = remat(_Layer, "full", in_loop=True)
    layers = nn.scan(
      layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=c.n_layer
    )
    h, _ = layers(c, name="h")(h, None)
    return nn.LayerNorm(epsilon=c.layer_norm_epsilon, name="ln_f")(h)


class _Layer(nn.Module):
  config: GPT2Config

  @nn.compact
  def __call__(self, h: jax.Array, _):
    c = self.config
    h = split_examples(h)
    normed = nn.LayerNorm(epsilon=c.layer_norm_epsilon, name="ln_1")(h)
    qkv = nn.Dense(3 * c.n_embd, name="attn_c_attn")(normed)
    heads = qkv.reshape(*h.shape[:2], 3, c.n_head, c.n_embd // c.n_head)
    causal = np.tri(h.shape[1], dtype=bool)
    attended = attend(*heads.transpose(2, 0, 3, 4, 1), causal)
    h += nn.Dense(c.n_embd, name="attn_c_proj")(attended.reshape(h.shape))
    normed = nn.LayerNorm(epsilon=c.layer_norm_epsilon, name="ln_2")(h)
    hidden = nn.gelu(nn.Dense(4 * c.n_embd, name="mlp_c_fc")(normed), approximate=True)
    return h + nn.Dense(c.n_embd, name="mlp_c_proj")(hidden), None


def load(folder: str | pathlib.Path) -> tuple[GPT2, Any]:
  """The module and its parameters from `config.json` and `model.safetensors` of a folder.

  Raises `WeightsError` where they are missing or are not those of a GPT-2.
  """
  folder = pathlib.Path(os.path.expanduser(folder))
  weights = folder / "model.safetensors"
  if not weights.is_file():
    raise WeightsError(
      f"no model.safetensors in {folder}; GPT-2's folder is at huggingface.co/openai-community/gpt2"
    )
  try:
    from safetensors.numpy import load_file
  except ModuleNotFoundError as error:
    raise WeightsError("GPT-2's weights need: pip install 'dmmd_jax[gpt2]'") from error
  config = GPT2Config()
  try:
    if (folder / "config.json").is_file():
      given = json.loads((folder / "config.json").read_text())
      names = {field.name for field in dataclasses.fields(GPT2Config)}
      config = GPT2Config(**{name: value for name, value in given.items() if name in names})
      _check_sizes(config)
    tensors = {name.removeprefix("transformer."): x for name, x in load_file(weights).items()}
  except Exception as error:  # safetensors has its own, JSON another
    raise WeightsError(f"cannot read the weights in {folder}: {error}") from error
  check_finite(weights, tensors)
  module = GPT2(config)
  try:
    params = _to_params(config, tensors)
  except (KeyError, ValueError) as error:
    raise WeightsError(f"{weights} does not hold a GPT-2: no, or no fitting, {error}") from error
  if f"h.{config.n_layer}.ln_1.weight" in tensors:
    raise WeightsError(f"{weights} has more layers than the {config.n_layer} of its config.json")
  expected = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))["params"]
  if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, expected):
    raise WeightsError(f"{weights} has tensors of other shapes than its config.json says")
  return module, params


def _check_sizes(config: GPT2Config) -> None:
  for name, value in dataclasses.asdict(config).items():
    if name != "layer_norm_epsilon" and not (type(value) is int and value > 0):
      raise ValueError(f"config.json has {name} {value}; expected a whole number above 0")
  if not isinstance(config.layer_norm_epsilon, float) or not 0 < config.layer_norm_epsilon < 1:
    raise ValueError(f"config.json has layer_norm_epsilon {config.layer_norm_epsilon}")
  if config.n_embd % config.n_head:
    raise ValueError(
      f"config.json has n_embd {config.n_embd}, no multiple of {config.n_head} heads"
    )


def _to_params(config: GPT2Config, tensors: dict) -> Any:
  def norm(prefix):
    return {"scale": tensors[prefix + ".weight"], "bias": tensors[prefix + ".bias"]}

  def dense(prefix):  # GPT-2 stores kernels as [in, out], as flax does
    return {"kernel": tensors[prefix + ".weight"], "bias": tensors[prefix + ".bias"]}

  def layer(i):
    return {
      "ln_1": norm(f"h.{i}.ln_1"),
      "ln_2": norm(f"h.{i}.ln_2"),
      "attn_c_attn": dense(f"h.{i}.attn.c_attn"),
      "attn_c_proj": dense(f"h.{i}.attn.c_proj"),
      "mlp_c_fc": dense(f"h.{i}.mlp.c_fc"),
      "mlp_c_proj": dense(f"h.{i}.mlp.c_proj"),
    }

  layers = [layer(i) for i in range(config.n_layer)]
  params = {
    "wte": {"embedding": tensors["wte.weight"]},
    "wpe": {"embedding": tensors["wpe.weight"]},
    "h": jax.tree.map(lambda *xs: jnp.stack(xs), *layers),
    "ln_f": norm("ln_f"),
  }
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
