"""D-MMD of SEDD's masked teacher (louaaron/sedd-small), 1,024 of GPT-2's byte pairs.

    python -m dmmd_jax.convert ~/sedd-small --workdir=runs/sedd
    python -m dmmd_jax.main --config=configs/sedd_dmmd.py --workdir=runs/sedd

See mdlm_dmmd for what it needs, and how to try it. Not yet run by us at full size.
"""

from configs import mdlm_dmmd


def get_config():
  config = mdlm_dmmd.get_config()
  config.dataset.wrap = False  # it was trained on texts that follow each other
  config.network.time = "sigma"  # its log-scores depend on it beyond their scale
  return config
