"""Writes `golden_llama/`: small random networks of LLaDA and Dream, and what they say.

Each is a folder as on the Hugging Face hub, LLaDA's in two files and bfloat16. Needs torch and
transformers, and a checkout of ZHZisZZ/dllm, which has both models:

    python -m tests.networks.make_golden_llama --dllm=PATH
"""

import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import torch
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "golden_llama"
VOCAB, MASK = 30, 27


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--dllm", required=True, help="a checkout of it")
  path = pathlib.Path(parser.parse_args().dllm)
  for name in ("llada", "dream"):
    package = types.ModuleType(name)
    package.__path__ = [str(path / "dllm" / "pipelines" / name / "models")]
    sys.modules[name] = package
  make("llada", path, llada())
  make("dream", path, dream())


def llada():
  config = importlib.import_module("llada.configuration_llada").LLaDAConfig(
    d_model=16, n_heads=2, n_layers=2, n_kv_heads=2, mlp_hidden_size=24, vocab_size=VOCAB,
    embedding_size=VOCAB, mask_token_id=MASK, rope=True, rope_full_precision=True, alibi=False,
    rope_theta=500_000.0, rms_norm_eps=1e-5, layer_norm_type="rms", activation_type="silu",
    block_type="llama", include_bias=False, include_qkv_bias=False, bias_for_layer_norm=False,
    weight_tying=False, attention_layer_norm=False, layer_norm_with_affine=True,
    max_sequence_length=16, flash_attention=False, residual_dropout=0.0, embedding_dropout=0.0,
    attention_dropout=0.0, init_device="cpu", scale_logits=False, input_emb_norm=False,
  )  # fmt: skip
  config.use_cache = False  # which newer versions of transformers leave out
  modeling = importlib.import_module("llada.modeling_llada")
  model_config = modeling.create_model_config_from_pretrained_config(config)
  model_config.init_device = "cpu"  # by default it asks for a GPU
  return modeling.LLaDAModelLM(config, model=modeling.LLaDAModel(model_config))


def dream():
  from transformers import modeling_rope_utils

  def frequencies(config, device=None):
    features = config.hidden_size // config.num_attention_heads
    return config.rope_theta ** (-torch.arange(0, features, 2) / features), 1.0

  # Newer versions of transformers have no such entry.
  modeling_rope_utils.ROPE_INIT_FUNCTIONS.setdefault("default", frequencies)
  config = importlib.import_module("dream.configuration_dream").DreamConfig(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=40, vocab_size=VOCAB, mask_token_id=MASK, pad_token_id=VOCAB - 1,
    max_position_embeddings=16, rope_theta=1_000_000.0, rms_norm_eps=1e-6,
  )  # fmt: skip
  return importlib.import_module("dream.modeling_dream").DreamModel(config)


def make(name: str, path: pathlib.Path, network) -> None:
  torch.manual_seed(len(name))
  network = network.eval()
  is_llada = name == "llada"
  with torch.no_grad():
    for parameter in network.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
      if is_llada:  # what bfloat16 can hold
        parameter.copy_(parameter.bfloat16().float())
  golden = {}
  for length in (8, 5):
    tokens = torch.randint(VOCAB, (3, length))
    tokens[:, ::2] = MASK
    with torch.no_grad():
      out = network(input_ids=tokens).logits
    if not is_llada:  # as its sampler and its trainer do
      out = torch.cat([out[:, :1], out[:, :-1]], 1)
    golden |= {f"tokens_{length}": tokens.numpy().astype(np.int32), f"out_{length}": out.numpy()}
  commit = subprocess.run(
    ["git", "-C", str(path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
  ).stdout.strip()
  folder = FOLDER / name
  folder.mkdir(parents=True, exist_ok=True)
  dtype = torch.bfloat16 if is_llada else torch.float32
  tensors = {key: x.clone().to(dtype) for key, x in network.state_dict().items()}
  save_shards(folder, tensors, 2 if is_llada else 1)
  config = json.loads(network.config.to_json_string(use_diff=False))
  (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
  np.savez_compressed(folder / "golden.npz", commit=commit, torch=torch.__version__, **golden)


def save_shards(folder: pathlib.Path, tensors: dict, number: int) -> None:
  if number == 1:
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return
  weight_map, names = {}, list(tensors)
  for i in range(number):
    file = f"model-{i + 1:05}-of-{number:05}.safetensors"
    part = {name: tensors[name] for name in names[i::number]}
    save_file(part, folder / file, metadata={"format": "pt"})
    weight_map |= dict.fromkeys(part, file)
  index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
  (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


if __name__ == "__main__":
  main()
