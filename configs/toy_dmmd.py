"""A mixture whose joint distribution, and so the exact teacher, is known: about five minutes.

The teacher phase trains only the network that student and auxiliary start from; what is distilled
and measured as `teacher` is the exact `E[x | z_t]`.
"""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.dataset.name = "mixture"
  # All 12 tokens are one position of the transformer: which component a token belongs to is a
  # matter of fixed places, and one wide vector says it with the least arithmetic.
  config.network.patch = 12
  config.network.width = 256
  config.network.depth = 2
  config.network.positions = "learned"
  config.network.remat = "none"

  config.teacher.loss = "cross_entropy"  # predicts E[x | z_t] for every process
  config.teacher.num_steps = 1000
  config.teacher.batch_size = 128
  config.teacher.ema = 0.99
  config.teacher.optimizer.learning_rate = 2e-3

  config.distill.teacher = "exact"
  config.distill.noise = "gaussian"
  config.distill.noise_dim = 16
  config.distill.noise_scale = 10.0
  config.distill.student_nfe = 4
  config.distill.num_steps = 600
  config.distill.batch_size = 128
  config.distill.student_optimizer.learning_rate = 3e-4
  config.distill.student_optimizer.decay = "cosine"
  config.distill.score.scales = ((0, 1, (1.0, 2.0, 4.0)),)

  config.evaluate.teacher_nfe = (1, 2, 4, 8, 16, 32, 64)
  config.evaluate.student_nfe = (1, 2, 4, 8, 16)
  return config
