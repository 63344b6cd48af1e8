"""Two perfectly correlated coins, masked, one step: the smallest case of the point of D-MMD."""

from configs import toy_dmmd


def get_config():
  config = toy_dmmd.get_config()
  config.dataset.name = "coins"
  config.network.patch = 2
  config.network.width = 32
  config.network.depth = 1

  config.teacher.num_steps = 300

  # The exact teacher rules wrong pairs out with -infinity; a trained one is a better opponent.
  config.distill.teacher = "network"
  config.distill.noise_scale = 60.0
  config.distill.from_prior = True
  config.distill.student_nfe = 1
  config.distill.num_steps = 450
  config.distill.batch_size = 64
  config.distill.student_optimizer.learning_rate = 5e-4
  config.distill.student_optimizer.decay = "constant"
  config.distill.auxiliary_optimizer.learning_rate = 4e-3
  config.distill.auxiliary_updates = 2

  config.evaluate.teacher_nfe = (1, 2, 4)
  config.evaluate.student_nfe = (1, 2)
  return config
