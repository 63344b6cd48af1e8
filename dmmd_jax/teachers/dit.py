"""The names and sizes of a DiT as MDLM, SEDD, BD3-LM and Duo keep it."""

from typing import Any

from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.teachers.names import Entry, count_layers
from dmmd_jax.teachers.tensors import Source

_FREQUENCIES = "rotary_emb.inv_freq"
# The last two are BD3-LM's.
BUFFERS = (r"(backbone\.)?rotary_emb\.inv_freq", r"sampling_eps_(min|max)", r"backbone\.mask")
# What config.json may call a size, and what of ours it is.
_CALLED = {
  "hidden_dim": "width", "hidden_size": "width", "n_blocks": "depth", "n_heads": "heads",
  "vocab_size": "vocab_size",
}  # fmt: skip


def entries(network: Any) -> list[Entry]:
  """In the order of their parameters; `network` is the section of a config."""
  is_conditioned = network.cond_dim > 0
  found = [Entry("tokens", "vocab_embed.embedding", vocabulary=0)]
  if is_conditioned:
    found += _affine("time_in", "sigma_map.mlp.0") + _affine("time_out", "sigma_map.mlp.2")
  found += [
    Entry("layers/norm1/scale", "blocks.{}.norm1.weight"),
    Entry("layers/qkv/kernel", "blocks.{}.attn_qkv.weight", "qkv"),
    Entry("layers/attended/kernel", "blocks.{}.attn_out.weight", "transposed"),
    Entry("layers/norm2/scale", "blocks.{}.norm2.weight"),
    *_affine("layers/mlp_in", "blocks.{}.mlp.0"),
    *_affine("layers/mlp_out", "blocks.{}.mlp.2"),
  ]
  if is_conditioned:
    found += _affine("layers/modulation", "blocks.{}.adaLN_modulation")
  found += [
    Entry("out_norm/scale", "output_layer.norm_final.weight"),
    Entry("logits/kernel", "output_layer.linear.weight", "transposed", vocabulary=1),
    Entry("logits/bias", "output_layer.linear.bias", vocabulary=0),
  ]
  if is_conditioned:
    found += _affine("out_modulation", "output_layer.adaLN_modulation")
  return found


def _affine(path: str, name: str) -> list[Entry]:
  return [
    Entry(f"{path}/kernel", f"{name}.weight", "transposed"),
    Entry(f"{path}/bias", f"{name}.bias"),
  ]


def sizes(source: Source, kind: str) -> dict[str, Any]:
  """The fields of `network` that the tensors say, and `config.json` of what these do not.

  Raises `WeightsError` where they contradict each other, or are not there.
  """
  prefix = "" if kind == "sedd" else "backbone."
  shapes = {
    n.removeprefix(prefix): x.shape for n, x in source.tensors.items() if n.startswith(prefix)
  }
  vocab_size, width = _shape(shapes, "vocab_embed.embedding", 2)
  hidden, _ = _shape(shapes, "blocks.0.mlp.0.weight", 2)
  (half,) = shapes.get(_FREQUENCIES, (0,))
  told = _told(source.config)
  heads = width // (2 * half) if half else told.get("heads", 0)
  if not heads or width % (2 * heads):
    raise WeightsError(
      f"there is no number of heads: expected {prefix}{_FREQUENCIES} in the file, or n_heads in its"
      " config.json"
    )
  time = shapes.get("sigma_map.mlp.0.weight", (0,))
  found = {
    "width": width,
    "depth": count_layers(shapes, "blocks.{}.norm1.weight"),
    "heads": heads,
    "mlp_ratio": max(hidden // width, 1),
    "vocab_size": vocab_size,
    "mask_token": -1 if kind == "duo" else vocab_size - 1,
    "cond_dim": time[0],
    "time": _time(source.config, kind) if time[0] else "none",
  }
  for name, value in told.items():
    if value != found[name]:
      raise WeightsError(
        f"config.json says that {name} is {value}, and the tensors that it is {found[name]}; get"
        " both again"
      )
  if kind == "bd3lm" and "block_size" in source.config:
    found["block"] = _whole(source.config, "block_size")
  return found


def _time(config: dict, kind: str) -> str:
  """MDLM and BD3-LM are trained without the time, unless their config says otherwise."""
  knows = config.get("time_conditioning", kind in ("duo", "sedd"))
  if type(knows) is not bool:
    raise WeightsError(f"config.json has time_conditioning {knows}; expected true or false")
  return "sigma" if knows else "none"


def _shape(shapes: dict[str, tuple], name: str, rank: int) -> tuple[int, ...]:
  if len(shapes.get(name, ())) != rank or 0 in shapes[name]:
    raise WeightsError(
      f"there is no {name} of {rank} axes, which a DiT of MDLM, SEDD, BD3-LM or Duo has; is it of"
      " another --kind?"
    )
  return shapes[name]


def _told(config: dict) -> dict[str, int]:
  """Sizes in `config.json`, which SEDD has in a section, and without the mask."""
  model = config.get("model")
  told = config | (model if isinstance(model, dict) else {})
  return {ours: _whole(told, name) for name, ours in _CALLED.items() if name in told}


def _whole(config: dict, name: str) -> int:
  value = config[name]
  if type(value) is not int or value < 1:
    raise WeightsError(f"config.json has {name} {value}; expected a whole number above 0")
  return value


def hub_config(config: Any) -> dict[str, Any]:
  """What `config.json` says of a network of ours."""
  network = config.network
  found = {
    "hidden_dim": network.width,
    "n_blocks": network.depth,
    "n_heads": network.heads,
    "cond_dim": network.cond_dim,
    "vocab_size": network.vocab_size,
    "model_length": config.dataset.length,
    "dropout": network.dropout,
    "time_conditioning": network.time == "sigma",
  }
  return found | ({"block_size": network.block} if network.block else {})
