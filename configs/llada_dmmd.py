"""D-MMD of LLaDA (GSAI-ML/LLaDA-8B-Instruct), 1,024 tokens of chats.

    python -m dmmd_jax.convert ~/LLaDA-8B-Instruct --workdir=runs/llada
    python -m dmmd_jax.main --config=configs/llada_dmmd.py --workdir=runs/llada \
        --config.dataset.path=~/chats.jsonl

The tokenizer is that of the teacher's folder. To try it in minutes on a CPU see mdlm_dmmd. Not yet
run by us at full size; docs/scaling.md has what it takes.
"""

from configs import mdlm_dmmd

FOLDER = "~/LLaDA-8B-Instruct"


def get_config():
  config = mdlm_dmmd.get_config()
  # What is measured under GPT-2 is of GPT-2's tokens; see docs/teachers.md.
  config.phases = ("distill",)

  config.dataset.name = "chats"
  config.dataset.path = "~/chats.jsonl"
  config.dataset.chat = "llada"
  config.dataset.alphabet = "file"
  config.dataset.wrap = False
  config.dataset.tokenizer = FOLDER

  network = config.network
  network.name = "llama"
  network.width, network.depth, network.heads = 4096, 32, 32
  network.kv_heads = 32
  network.hidden = 12_288
  network.vocab_size = 126_464
  network.mask_token = 126_336
  network.rotary_base = 500_000.0
  network.norm_epsilon = 1e-5
  network.qkv_bias = False
  network.shifted = False
  network.remat = "full"
  for of_dit in ("cond_dim", "time", "block", "mlp_ratio"):
    del network[of_dit]

  config.run.mesh = (1, -1, 1)  # parameters over all devices
  config.reference.gpt2 = ""
  config.distill.teacher_dtype = "bfloat16"
  config.distill.batch_size = 32
  config.presets.smoke.network = {
    "width": 32, "depth": 2, "heads": 4, "kv_heads": 4, "hidden": 64, "dtype": "float32",
    "vocab_size": 32, "mask_token": 29,
  }  # fmt: skip
  return config
