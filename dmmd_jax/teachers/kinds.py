"""The kinds of teachers that can be converted: their config, their names, how they are told."""

import dataclasses
from collections.abc import Callable
from typing import Any

from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.teachers import dit, llama
from dmmd_jax.teachers.names import Entry
from dmmd_jax.teachers.tensors import Source


@dataclasses.dataclass(frozen=True)
class Kind:
  """How the files of a kind are read.

  `config` is one of configs/, whose fields hold but for the sizes of the network: `sizes(source,
  kind)` finds them. `entries(network)` says which parameter is which tensor, after `prefix`;
  `buffers` are patterns of names that hold no parameters. `hub_config(config)` is what a
  `config.json` says.
  """

  config: str
  prefix: str
  sizes: Callable[[Source, str], dict[str, Any]]
  entries: Callable[[Any], list[Entry]]
  buffers: tuple[str, ...]
  hub_config: Callable[[Any], dict[str, Any]]


_DIT = {
  "sizes": dit.sizes,
  "entries": dit.entries,
  "buffers": dit.BUFFERS,
  "hub_config": dit.hub_config,
}
KINDS = {
  "mdlm": Kind("mdlm_dmmd", "backbone.", **_DIT),
  "duo": Kind("duo_dmmd", "backbone.", **_DIT),
  "bd3lm": Kind("bd3lm_dmmd", "backbone.", **_DIT),
  "sedd": Kind("sedd_dmmd", "", **_DIT),
  "llada": Kind(
    "llada_dmmd",
    "model.transformer.",
    llama.sizes,
    llama.llada_entries,
    llama.BUFFERS,
    llama.llada_hub_config,
  ),
  "dream": Kind(
    "dream_dmmd",
    "",
    llama.sizes,
    llama.dream_entries,
    llama.BUFFERS,
    llama.dream_hub_config,
  ),
}


def recognise(where: Any, source: Source) -> str:
  """The kind that `config.json` or the names of tensors tell. Raises `WeightsError` for none."""
  told = str(source.config.get("model_type", "")).lower()
  graph = source.config.get("graph")
  if isinstance(graph, dict):
    told = "sedd" if graph.get("type") == "absorb" else f"sedd with graph {graph.get('type')}"
  if told in KINDS:
    return told
  if not told and "vocab_embed.embedding" in source.tensors:
    return "sedd"
  found = f"its config.json says {told!r}" if told else "nothing in it says which"
  raise WeightsError(
    f"{where}: {found}; expected a teacher of kind {', '.join(KINDS)}: give --kind if it is one"
  )
