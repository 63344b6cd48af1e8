"""Handwritten digits, uniform diffusion, D-MMD."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.process.name = "uniform"
  # A network trained with cross-entropy predicts E[x | z_t], which D-MMD matches as it stands;
  # teacher.loss = "bound" trains a leave_one_out network instead, which is turned into the mean.
  config.teacher.loss = "cross_entropy"
  # Given z_t, a sample x and z_s are dependent: the auxiliary model must see the sample.
  config.distill.dmmd.auxiliary_target = "hard"
  return config
