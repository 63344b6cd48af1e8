"""CIFAR-10 at full scale, uniform diffusion, D-MMD: the paper's Table 1 (arXiv 2603.20155).

Expected, FID of 50,000 samples to the training split (the paper's numbers; not yet run by us):

    NFE               4     8    16    32    64   128   256   512  1024
    uniform teacher             36.3  17.1  10.7   8.6   7.9   7.6   7.5
    uniform D-MMD   7.1   5.0   4.1   3.7   3.8
"""

from configs import cifar_dmmd, digits_dmmd


def get_config():
  config = digits_dmmd.make_uniform(cifar_dmmd.get_config())
  # Randomness of z_t itself helps: it works with fewer steps than masked.
  config.distill.student_nfe = 8
  return config
