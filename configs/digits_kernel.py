"""Handwritten digits, masked diffusion, the kernel score alone: 1 to 4 steps."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.distill.method = "kernel_score"
  config.distill.student_nfe = 4
  config.distill.student_optimizer.b1 = 0.5
  # Near grey levels agree in part (docs/kernel_score.md).
  config.distill.score.category_bandwidth = 4.0
  return config
