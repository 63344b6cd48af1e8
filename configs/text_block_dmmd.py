"""English text in blocks of 16 characters, each by masked diffusion given those before it."""

from configs import text_dmmd


def get_config():
  config = text_dmmd.get_config()
  config.network.block = 16
  config.distill.score.scales = ((0, 1, (2.0, 8.0)), (4, 1, (1.0,)), (2, 1, (1.0,)))
  # NFE are those of every block.
  config.evaluate.teacher_nfe = (1, 2, 4, 8, 16)
  config.evaluate.student_nfe = (1, 2, 4, 8, 16)
  return config
