"""English text, masked diffusion, D-MMD and the kernel score together: 1 to 8 steps."""

from configs import text_dmmd


def get_config():
  config = text_dmmd.get_config()
  config.distill.method = "dmmd_kernel"
  config.distill.steps = 4
  config.distill.student_optimizer.b1 = 0.5
  return config
