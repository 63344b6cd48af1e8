"""Handwritten digits, uniform diffusion, D-MMD."""

from configs import digits_dmmd


def get_config():
  return digits_dmmd.make_uniform(digits_dmmd.get_config())
