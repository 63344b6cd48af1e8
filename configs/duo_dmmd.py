"""D-MMD of Duo's uniform teacher (s-sahoo/duo), 1,024 of GPT-2's byte pairs.

    python -m dmmd_jax.convert ~/duo --workdir=runs/duo
    python -m dmmd_jax.main --config=configs/duo_dmmd.py --workdir=runs/duo

See mdlm_dmmd for what it needs, and how to try it. Not yet run by us at full size.
"""

from configs import mdlm_dmmd


def get_config():
  config = mdlm_dmmd.get_config()
  config.process.name = "uniform"
  # GPT-2's tokens and [PAD], which Duo's chain visits as any other state, and data never have.
  config.network.mask_token = -1
  config.network.time = "sigma"
  # Given z_t, a sample x and z_s are dependent: the auxiliary model must see the sample.
  config.distill.dmmd.auxiliary_target = "hard"
  config.distill.top_p = 0.7  # that of the paper for uniform diffusion
  config.evaluate.teacher_top_p = 0.5
  config.presets.smoke.network.mask_token = -1
  return config
