"""A hidden Markov model of 64 tokens, all of which is known exactly: some twenty minutes.

The teacher phase trains the network that student and auxiliary start from; what is distilled and
measured as `teacher` is the exact `E[x | z_t]`. With `--config.distill.teacher=network` it is the
trained one.
"""

from configs import toy_dmmd


def get_config():
  config = toy_dmmd.get_config()
  dataset = config.dataset
  dataset.name = "hmm"
  dataset.length = 64
  dataset.num_categories = 32
  dataset.num_hidden = 16

  # States are found by looking at neighbours, wherever these are.
  network = config.network
  network.patch = 2
  network.width = 128
  network.depth = 4
  network.positions = "rotary"
  network.remat = "narrow"

  config.teacher.num_steps = 1500
  config.teacher.batch_size = 64

  distill = config.distill
  distill.method = "dmmd"
  distill.updates = "joint"
  distill.noise_dim = 4
  distill.num_steps = 500
  distill.batch_size = 64
  # Above those of the mixture: better for D-MMD of 200 updates, at all steps.
  distill.student_optimizer.learning_rate = 1e-3
  distill.auxiliary_optimizer.learning_rate = 2e-3
  distill.score.scales = (
    (0, 1, (8.0, 32.0)),
    (8, 4, (2.0, 8.0)),
    (4, 2, (1.0, 4.0)),
    (2, 1, (1.0,)),
  )

  config.evaluate.sample_batch_size = 1000
  config.evaluate.teacher_nfe = (1, 2, 4, 8, 16, 32, 64)
  return config
