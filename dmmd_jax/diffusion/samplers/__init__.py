"""How tokens are drawn from the predictions of a network, in a number of steps."""

from dmmd_jax.diffusion.samplers.autoregressive import sample_autoregressively
from dmmd_jax.diffusion.samplers.blocks import sample_blocks
from dmmd_jax.diffusion.samplers.sampling import (
  Predict,
  Prompt,
  Samples,
  Sampling,
  ancestral_sample,
  finish_sample,
)

__all__ = [
  "Predict", "Prompt", "Samples", "Sampling", "ancestral_sample", "finish_sample",
  "sample_autoregressively", "sample_blocks",
]  # fmt: skip
