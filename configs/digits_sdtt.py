"""Handwritten digits, masked diffusion, SDTT: three rounds, each from the last one's student."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.distill.method = "sdtt"
  config.distill.noise = "none"
  config.distill.num_steps = 600
  config.distill.student_nfe = 8
  config.distill.student_optimizer.update({"decay": "constant", "b1": 0.9})
  # The paper's is 7 rounds of 10,000 steps of 128 texts from 1,024 steps, at 6e-5 to 3e-4.
  config.distill.sdtt = {"rounds": 3, "teacher_nfe": 64, "loss": "kl_student_teacher"}
  return config
