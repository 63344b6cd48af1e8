"""Two perfectly correlated coins, masked, one step, with the kernel score alone."""

from configs import coins_dmmd


def get_config():
  config = coins_dmmd.get_config()
  config.distill.method = "kernel_score"
  config.distill.student_optimizer.learning_rate = 2e-3
  config.distill.student_optimizer.b1 = 0.5
  config.distill.student_optimizer.decay = "cosine"
  return config
