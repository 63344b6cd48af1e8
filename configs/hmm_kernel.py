"""A hidden Markov model, the kernel score alone: 1 to 4 steps."""

from configs import hmm_dmmd


def get_config():
  config = hmm_dmmd.get_config()
  config.distill.method = "kernel_score"
  # An example is seen with two noises: as many outputs of the student as D-MMD alone has of 64.
  config.distill.batch_size = 32
  return config
