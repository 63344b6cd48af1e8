"""Handwritten digits, masked diffusion, Di[M]O: one step."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  distill = config.distill
  distill.method = "dimo"
  distill.student_nfe = 1
  # The paper: Adam, 1e-5, b1 .9 for both, EMA .9999, 50,000 steps, noise of .1 on the embeddings.
  for optimizer in (distill.student_optimizer, distill.auxiliary_optimizer):
    optimizer.b1 = 0.9
  config.evaluate.student_nfe = (1,)
  return config
