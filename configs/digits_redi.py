"""Handwritten digits, masked diffusion, ReDi: couples of noise and digits of the teacher."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  distill = config.distill
  distill.method = "redi"
  distill.redi = {"num_pairs": 2000, "nfe": 32}  # the paper's: 20,000 to 50,000 of 1024 steps
  distill.noise_scale = 1.0
  distill.student_optimizer.b1 = 0.9
  return config
