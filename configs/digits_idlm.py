"""Handwritten digits, masked diffusion, IDLM: 4 to 16 steps."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  distill = config.distill
  distill.method = "idlm"
  distill.student_nfe = 8
  distill.num_steps = 350  # it gets worse with more (docs/methods.md)
  # The paper: learning rate 1e-6 for both, batches of 512, EMA .9999, one update each by turns.
  distill.student_optimizer.learning_rate = 2e-4
  distill.auxiliary_optimizer.learning_rate = 5e-4
  return config
