"""Handwritten digits, masked diffusion, DiDi-Instruct: 4 to 16 steps."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  distill = config.distill
  distill.method = "didi"
  distill.student_nfe = 8
  distill.num_steps = 350
  distill.batch_size = 16  # each with a group of 4 samples
  # The paper: a learning rate of 1e-5 for the discriminator, EMA .999, 10,000 steps, no noise.
  distill.student_optimizer.learning_rate = 1e-4
  distill.auxiliary_optimizer.learning_rate = 2e-4
  for optimizer in (distill.student_optimizer, distill.auxiliary_optimizer):
    optimizer.b1 = 0.9
  return config
