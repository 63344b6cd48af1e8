"""Handwritten digits, masked diffusion, D-MMD and the kernel score together: 1 to 4 steps."""

from configs import digits_kernel


def get_config():
  config = digits_kernel.get_config()
  config.distill.method = "dmmd_kernel"
  return config
