"""Writes `golden_dit/`: small random networks of MDLM, SEDD, BD3-LM and Duo, and what they say.

Each is a folder as on the Hugging Face hub; `mdlm.ckpt` is a checkpoint of Lightning. Needs torch,
omegaconf, einops, huggingface_hub, and checkouts of kuleshov-group/mdlm, s-sahoo/duo,
louaaron/Score-Entropy-Discrete-Diffusion and kuleshov-group/bd3lms:

    python -m tests.networks.make_golden_dit --mdlm=PATH --duo=PATH --sedd=PATH --bd3lm=PATH

flash-attn, which they import, is replaced by plain attention.
"""

import argparse
import ast
import importlib
import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

FOLDER = pathlib.Path(__file__).parent / "golden_dit"
VOCAB, LENGTH, BLOCK = 30, 8, 4
SIZES = {
  "hidden_size": 16, "cond_dim": 8, "length": LENGTH, "n_blocks": 2, "n_heads": 2, "dropout": 0.1,
  "scale_by_sigma": True, "tie_word_embeddings": False, "attn_backend": "sdpa", "adaln": True,
}  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  for name in ("mdlm", "duo", "sedd", "bd3lm"):
    parser.add_argument(f"--{name}", required=True, help="a checkout of it")
  paths = vars(parser.parse_args())
  replace_flash_attention()
  config = OmegaConf.create({
    "model": SIZES, "tokens": VOCAB - 1, "graph": {"type": "absorb"},
    "noise": {"type": "loglinear"},
    "algo": {"causal_attention": False, "parameterization": "subs", "cross_attn": True},
    "block_size": BLOCK, "loader": {"eval_batch_size": 2}, "sampling": {"kv_cache": False},
  })  # fmt: skip
  of_hub = {"hidden_dim": 16, "n_blocks": 2, "n_heads": 2, "vocab_size": VOCAB, "dropout": 0.1}
  of_hub |= {"model_length": LENGTH, "cond_dim": 8}
  make("mdlm", paths, lambda: dit(paths["mdlm"]).DIT(config, VOCAB), of_hub | {"cond_dim": 129})
  make("duo", paths, lambda: dit(paths["duo"]).DIT(config, VOCAB), of_hub)
  of_bd3lm = of_hub | {"block_size": BLOCK, "adaln": True, "cross_attn": True, "causal": False}
  make("bd3lm", paths, lambda: dit(paths["bd3lm"]).DIT(config, VOCAB), of_bd3lm)
  sedd = lambda: module(paths["sedd"], "model.transformer").SEDD(config)
  make("sedd", paths, sedd, OmegaConf.to_container(config))


def make(name: str, paths: dict[str, str], build, hub_config: dict) -> None:
  torch.manual_seed(len(name))
  network = build().eval()
  with torch.no_grad():  # as initialised all that is adaptive is 0
    for parameter in network.parameters():
      parameter += 0.2 * torch.randn_like(parameter)
  lengths = [2 * LENGTH] if name == "bd3lm" else [LENGTH, LENGTH - 3]
  golden = {}
  for length in lengths:
    tokens = torch.randint(VOCAB, (3, length))
    tokens[:, ::2][:, : length // 4] = VOCAB - 1  # some masks
    # What they are given at t = 0.05, 0.5 and 1; MDLM and BD3-LM are given 0 always.
    alpha = 1 - (1 - 1e-3) * torch.tensor([0.05, 0.5, 1.0])
    sigma = -torch.log(alpha) if name in ("duo", "sedd") else torch.zeros(3)
    with torch.no_grad():
      out = network(tokens, sigma)
    golden |= {f"tokens_{length}": tokens.numpy().astype(np.int32), f"out_{length}": out.numpy()}
    golden[f"alpha_{length}"] = alpha.numpy()
    if name != "bd3lm":
      clean = torch.randint(VOCAB - 1, tokens.shape)
      golden |= {f"clean_{length}": clean.numpy().astype(np.int32)}
      golden |= {f"nll_{length}": nll(paths["duo"], name, out, tokens, clean, alpha).numpy()}
  commit = subprocess.run(
    ["git", "-C", paths[name], "rev-parse", "HEAD"], capture_output=True, text=True, check=True
  ).stdout.strip()
  folder = FOLDER / name
  folder.mkdir(parents=True, exist_ok=True)
  prefix = "" if name == "sedd" else "backbone."
  tensors = {prefix + key: x.clone() for key, x in network.state_dict().items()}
  save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
  kind = {} if name == "sedd" else {"model_type": name}
  (folder / "config.json").write_text(json.dumps(kind | hub_config, indent=1) + "\n")
  np.savez_compressed(folder / "golden.npz", commit=commit, torch=torch.__version__, **golden)
  if name == "mdlm":
    save_checkpoint(network, tensors)


def nll(path: str, name: str, out, tokens, clean, alpha) -> torch.Tensor:
  """The authors' bound per token; Duo's repository has those of the others, too."""
  classes = {"mdlm": "MDLM", "duo": "DUO_BASE", "sedd": "SEDDAbsorb"}
  tree = ast.parse((pathlib.Path(path) / "algo.py").read_text())
  (cls,) = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == classes[name])
  methods = [n for n in cls.body if getattr(n, "name", "") == "nll_per_token"]
  found = {"torch": torch, "F": torch.nn.functional, "np": np}
  exec(compile(ast.Module(methods, []), "algo.py", "exec"), found)
  network = types.SimpleNamespace(
    vocab_size=VOCAB, mask_index=VOCAB - 1, _sigma_from_alphat=lambda alpha: -torch.log(alpha)
  )
  log_x = out.clone()
  if name == "mdlm":
    log_x[..., -1] = -1e6
  if name != "sedd":
    log_x = log_x.log_softmax(-1)
  slope = torch.full((len(tokens), 1), -(1 - 1e-3))
  return found["nll_per_token"](
    network, log_x, tokens, clean, alpha_t=alpha[:, None], dalpha_t=slope
  )


def save_checkpoint(network, tensors: dict) -> None:
  """As Lightning leaves it, with what a training run has beside its weights."""
  averaged = [p.detach() + 0.5 for p in network.parameters()]
  optimizer = torch.optim.AdamW(network.parameters())
  checkpoint = {
    "epoch": 0, "global_step": 7, "pytorch-lightning_version": "2.2.1",
    "state_dict": tensors, "loops": {"fit_loop": {"state_dict": {}}}, "callbacks": {},
    "optimizer_states": [optimizer.state_dict()], "lr_schedulers": [],
    "hparams_name": "kwargs",
    "hyper_parameters": {"config": OmegaConf.create({"model": SIZES}), "path": pathlib.Path("x")},
    "ema": {"decay": 0.9999, "num_updates": 7, "shadow_params": averaged},
    "sampler": {"random_state": None},
  }  # fmt: skip
  torch.save(checkpoint, FOLDER / "mdlm.ckpt")


def dit(path: str):
  return module(path, "models.dit")


def module(path: str, name: str):
  """One of a checkout, whose packages have the names of other checkouts'."""
  root = name.partition(".")[0]
  for loaded in [n for n in sys.modules if n == root or n.startswith(f"{root}.")]:
    del sys.modules[loaded]
  package = types.ModuleType(root)  # without what its own __init__ imports
  package.__path__ = [str(pathlib.Path(path) / root)]
  sys.modules[root] = package
  return importlib.import_module(name)


def replace_flash_attention() -> None:
  def rotated(x, cos, sin):
    cos, sin = (a.repeat(1, 2)[None, :, None] for a in (cos, sin))
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin

  def rotate_qkv(qkv, cos, sin):
    q, k, v = qkv.unbind(2)
    return torch.stack([rotated(q, cos, sin), rotated(k, cos, sin), v], 2)

  def attention(qkv, cu_seqlens, length, dropout, causal):
    q, k, v = qkv.unflatten(0, (-1, length)).permute(2, 0, 3, 1, 4)
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return out.transpose(1, 2).flatten(0, 1)

  for name in ("", ".layers", ".layers.rotary", ".flash_attn_interface"):
    sys.modules[f"flash_attn{name}"] = types.ModuleType(f"flash_attn{name}")
  flash = sys.modules["flash_attn"]
  flash.layers = sys.modules["flash_attn.layers"]
  flash.layers.rotary = sys.modules["flash_attn.layers.rotary"]
  flash.flash_attn_interface = sys.modules["flash_attn.flash_attn_interface"]
  flash.layers.rotary.apply_rotary_emb_qkv_ = rotate_qkv
  flash.layers.rotary.apply_rotary_emb_torch = rotated
  flash.flash_attn_interface.flash_attn_varlen_qkvpacked_func = attention


if __name__ == "__main__":
  main()
