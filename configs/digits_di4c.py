"""Handwritten digits, masked diffusion, Di4C: a student that is a mixture over a latent."""

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  distill = config.distill
  distill.method = "di4c"
  distill.batch_size = 16  # each with eight latents, at two times
  distill.noise = "latent"
  distill.noise_dim = 16
  # The paper's for text: 16 latents, delta 0.02, 1024 steps of the teacher.
  distill.di4c = {"num_latents": 8, "delta": 0.05, "teacher_steps": 64}
  distill.student_optimizer.b1 = 0.9
  return config
