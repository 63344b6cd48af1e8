"""The names and sizes of LLaDA's and Dream's networks."""

from typing import Any

from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.teachers.names import Entry
from dmmd_jax.teachers.tensors import Source

# Tables of frequencies, which some versions keep.
BUFFERS = (r".*rotary_emb\.inv_freq",)

# Names of fields: ours, LLaDA's, Dream's.
_SIZES = (
  ("width", "d_model", "hidden_size"),
  ("depth", "n_layers", "num_hidden_layers"),
  ("heads", "n_heads", "num_attention_heads"),
  ("kv_heads", "n_kv_heads", "num_key_value_heads"),
  ("hidden", "mlp_hidden_size", "intermediate_size"),
  ("mask_token", "mask_token_id", "mask_token_id"),
)
_NUMBERS = (
  ("rotary_base", "rope_theta", "rope_theta"),
  ("norm_epsilon", "rms_norm_eps", "rms_norm_eps"),
)
# What would make another network of it; a field that is absent has the value expected.
_EXPECTED = {
  "llada": {
    "block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True,
    "alibi": False, "include_bias": False, "include_qkv_bias": False, "weight_tying": False,
    "scale_logits": False, "input_emb_norm": False, "attention_layer_norm": False,
    "layer_norm_with_affine": True, "bias_for_layer_norm": False,
  },
  "dream": {
    "hidden_act": "silu", "rope_scaling": None, "tie_word_embeddings": False,
    "use_sliding_window": False,
  },
}  # fmt: skip


def llada_entries(network: Any) -> list[Entry]:
  """`network` is the section of a config."""
  del network
  layer = {
    "attention_norm/scale": "attn_norm", "query/kernel": "q_proj", "key/kernel": "k_proj",
    "value/kernel": "v_proj", "attended/kernel": "attn_out", "mlp_norm/scale": "ff_norm",
    "mlp_gate/kernel": "ff_proj", "mlp_in/kernel": "up_proj", "mlp_out/kernel": "ff_out",
  }  # fmt: skip
  return [
    Entry("tokens", "wte.weight", vocabulary=0),
    *(_of_layer(path, f"blocks.{{}}.{name}.weight") for path, name in layer.items()),
    Entry("out_norm/scale", "ln_f.weight"),
    Entry("logits/kernel", "ff_out.weight", "transposed", vocabulary=1),
  ]


def dream_entries(network: Any) -> list[Entry]:
  """`network` is the section of a config."""
  layer = {
    "attention_norm/scale": "input_layernorm", "query/kernel": "self_attn.q_proj",
    "key/kernel": "self_attn.k_proj", "value/kernel": "self_attn.v_proj",
    "attended/kernel": "self_attn.o_proj", "mlp_norm/scale": "post_attention_layernorm",
    "mlp_gate/kernel": "mlp.gate_proj", "mlp_in/kernel": "mlp.up_proj",
    "mlp_out/kernel": "mlp.down_proj",
  }  # fmt: skip
  found = [_of_layer(path, f"model.layers.{{}}.{name}.weight") for path, name in layer.items()]
  if network.qkv_bias:
    found += [
      Entry(f"layers/{path}/bias", f"model.layers.{{}}.self_attn.{name}_proj.bias")
      for path, name in (("query", "q"), ("key", "k"), ("value", "v"))
    ]
  return [
    Entry("tokens", "model.embed_tokens.weight", vocabulary=0),
    *found,
    Entry("out_norm/scale", "model.norm.weight"),
    Entry("logits/kernel", "lm_head.weight", "transposed", vocabulary=1),
  ]


def _of_layer(path: str, name: str) -> Entry:
  return Entry(f"layers/{path}", name, "transposed" if path.endswith("kernel") else "plain")


def sizes(source: Source, kind: str) -> dict[str, Any]:
  """The fields of `network` that `config.json` says, and the rows of the table of tokens.

  Raises `WeightsError` where one is missing, or says that it is another network.
  """
  config, column = source.config, 1 if kind == "llada" else 2
  for name, expected in _EXPECTED[kind].items():
    if config.get(name, expected) != expected:
      raise WeightsError(
        f"config.json has {name} {config[name]}; expected {expected}, as of the networks of {kind}"
        " that are published"
      )
  found = {row[0]: _number(config, row[column], int) for row in _SIZES}
  found |= {row[0]: _number(config, row[column], float) for row in _NUMBERS}
  table = "model.transformer.wte.weight" if kind == "llada" else "model.embed_tokens.weight"
  if table not in source.tensors or len(source.tensors[table].shape) != 2:
    raise WeightsError(f"there is no table {table}, which {kind} has; is it of another --kind?")
  is_dream = kind == "dream"
  vocab_size = source.tensors[table].shape[0]
  return found | {"vocab_size": vocab_size, "qkv_bias": is_dream, "shifted": is_dream}


def _number(config: dict, name: str, kind: type) -> int | float:
  value = config.get(name)
  is_number = type(value) is int or (kind is float and type(value) is float)
  if not is_number or not value > 0:
    what = "a whole number" if kind is int else "a number"
    raise WeightsError(f"config.json has {name} {value}; expected {what} above 0")
  return kind(value)


def llada_hub_config(config: Any) -> dict[str, Any]:
  """What `config.json` says of a network of ours."""
  return _hub_config(config, 1) | _EXPECTED["llada"]


def dream_hub_config(config: Any) -> dict[str, Any]:
  """What `config.json` says of a network of ours."""
  return _hub_config(config, 2) | _EXPECTED["dream"]


def _hub_config(config: Any, column: int) -> dict[str, Any]:
  named = {row[column]: config.network[row[0]] for row in (*_SIZES, *_NUMBERS)}
  return named | {"vocab_size": config.network.vocab_size}
