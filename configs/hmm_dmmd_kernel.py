"""A hidden Markov model, D-MMD and the kernel score together: 1 to 4 steps."""

from configs import hmm_kernel


def get_config():
  config = hmm_kernel.get_config()
  config.distill.method = "dmmd_kernel"
  # After 500 the pair MMD² in four steps is .0051 (one seed), after this .0021 (docs/methods.md).
  config.distill.num_steps = 2000
  return config
