"""A mixture whose joint distribution, and so the exact teacher, is known: seconds to minutes.

The teacher phase trains only the network that student and auxiliary start from; what is distilled
and measured as `teacher` is the exact `E[x | z_t]`.
"""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.dataset.name = "mixture"  # or coins: --config.dataset.name=coins
  config.network.patch = 1
  config.network.width = 64
  config.network.depth = 3
  config.network.heads = 2
  config.run.checkpoint_every = 1000

  config.teacher.loss = "cross_entropy"  # predicts E[x | z_t] for every process
  config.teacher.num_steps = 1000
  config.teacher.batch_size = 256

  config.distill.teacher = "exact"
  config.distill.noise = "gaussian"
  config.distill.noise_dim = 16
  config.distill.steps = 4
  config.distill.num_steps = 3000
  config.distill.batch_size = 128

  config.evaluate.teacher_nfe = (1, 2, 4, 8, 16, 32, 64)
  config.evaluate.student_nfe = (1, 2, 4, 8, 16)
  return config
