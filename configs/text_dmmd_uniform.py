"""English text, uniform diffusion over characters, D-MMD."""

from configs import text_dmmd


def get_config():
  config = text_dmmd.get_config()
  config.process.name = "uniform"
  # A network trained with cross-entropy predicts E[x | z_t], which D-MMD matches as it stands.
  config.teacher.loss = "cross_entropy"
  # Given z_t, a sample x and z_s are dependent: the auxiliary model must see the sample.
  config.distill.dmmd.auxiliary_target = "hard"
  return config
