"""D-MMD of MDLM's masked teacher (kuleshov-group/mdlm-owt), 1,024 of GPT-2's byte pairs.

    python -m dmmd_jax.convert ~/mdlm-owt --workdir=runs/mdlm
    python -m dmmd_jax.main --config=configs/mdlm_dmmd.py --workdir=runs/mdlm

Needs OpenWebText and GPT-2, as owt_dmmd. To try it in minutes on a CPU, with a tiny random teacher
and characters: `convert random --kind=mdlm --workdir=runs/smoke`, then `--config.preset=smoke` with
the same workdir. Not yet run by us at full size.
"""

from ml_collections import ConfigDict

from configs import owt_dmmd


def get_config():
  config = owt_dmmd.get_config()
  config.phases = ("distill", "evaluate")

  config.dataset.wrap = True

  network = config.network
  network.name = "dit"
  network.vocab_size = 50_258  # GPT-2's tokens and a mask
  network.mask_token = 50_257
  network.cond_dim = 128
  network.time = "none"
  for of_transformer in ("patch", "positions", "conv", "embed_dim"):
    del network[of_transformer]

  config.presets = ConfigDict({"smoke": smoke()})
  return config


def smoke():
  """A tiny teacher of characters, and just enough of everything to see it run."""
  network = {"width": 32, "depth": 2, "heads": 2, "cond_dim": 16, "dtype": "float32"}
  dataset = {"name": "english", "alphabet": "text8", "tokenizer": "", "length": 32, "wrap": False}
  return {
    "phases": ("reference", "distill", "evaluate"),
    "run": {"checkpoint_every": 100, "log_every": 10, "tensorboard": False},
    "dataset": dataset,
    "network": network | {"vocab_size": 28, "mask_token": 27},
    "reference": {"num_steps": 50, "gpt2": ""},
    "distill": {"num_steps": 30, "batch_size": 16, "noise_dim": 4, "student_nfe": 8, "ema": 0.9},
    "evaluate": {
      "teacher_nfe": (8,),
      "student_nfe": (8,),
      "num_sample_batches": 2,
      "sample_batch_size": 64,
    },
  }
