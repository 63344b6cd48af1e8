"""English text, uniform diffusion over characters, D-MMD."""

from configs import digits_dmmd, text_dmmd


def get_config():
  return digits_dmmd.make_uniform(text_dmmd.get_config())
