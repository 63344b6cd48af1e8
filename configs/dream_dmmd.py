"""D-MMD of Dream (Dream-org/Dream-v0-Instruct-7B), 1,024 tokens of chats.

    python -m dmmd_jax.convert ~/Dream-v0-Instruct-7B --workdir=runs/dream
    python -m dmmd_jax.main --config=configs/dream_dmmd.py --workdir=runs/dream \
        --config.dataset.path=~/chats.jsonl

See llada_dmmd. Not yet run by us at full size.
"""

from configs import llada_dmmd

FOLDER = "~/Dream-v0-Instruct-7B"


def get_config():
  config = llada_dmmd.get_config()
  config.dataset.tokenizer = FOLDER
  config.dataset.chat = "dream"
  network = config.network
  network.width, network.depth, network.heads = 3584, 28, 28
  network.kv_heads = 4
  network.hidden = 18_944
  network.vocab_size = 152_064
  network.mask_token = 151_666
  network.rotary_base = 1_000_000.0
  network.norm_epsilon = 1e-6
  network.qkv_bias = True
  network.shifted = True
  config.presets.smoke.network.kv_heads = 2
  return config
