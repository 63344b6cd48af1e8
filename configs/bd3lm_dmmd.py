"""D-MMD of BD3-LM's masked teacher in blocks of 16 (kuleshov-group/bd3lm-owt-block_size16).

    python -m dmmd_jax.convert ~/bd3lm-owt-block_size16 --workdir=runs/bd3lm
    python -m dmmd_jax.main --config=configs/bd3lm_dmmd.py --workdir=runs/bd3lm

`network.block` is that of the teacher: 4, 8 or 16. See mdlm_dmmd for what it needs, and how to try
it. Not yet run by us at full size.
"""

from configs import mdlm_dmmd


def get_config():
  config = mdlm_dmmd.get_config()
  config.network.block = 16
  # NFE are those of every block.
  config.distill.student_nfe = 4
  config.evaluate.teacher_nfe = (1, 2, 4, 8, 16)
  config.evaluate.student_nfe = (1, 2, 4, 8, 16)
  config.presets.smoke.distill.student_nfe = 4
  config.presets.smoke.network.block = 16
  return config
