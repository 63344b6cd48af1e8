"""Handwritten digits, uniform diffusion, Duo's discrete consistency distillation."""

from configs import digits_dmmd_uniform


def get_config():
  config = digits_dmmd_uniform.get_config()
  config.distill.method = "dcd"
  config.distill.noise = "none"
  config.distill.num_steps = 600
  config.distill.student_nfe = 8
  config.distill.student_optimizer.update({"decay": "constant", "b1": 0.9})
  # The paper's is 5 rounds of 10,000 steps of 128 texts from 1/512, at 6e-5.
  config.distill.dcd = {"rounds": 3, "teacher_nfe": 64}
  return config
