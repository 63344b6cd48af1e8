"""The mixture of `toy_dmmd.py` with the kernel score alone: about five minutes."""

from configs import toy_dmmd


def get_config():
  config = toy_dmmd.get_config()
  config.distill.method = "kernel_score"
  config.distill.num_steps = 1000
  config.distill.student_optimizer.learning_rate = 1e-3
  config.distill.student_optimizer.b1 = 0.9
  config.distill.student_optimizer.b2 = 0.99
  return config
