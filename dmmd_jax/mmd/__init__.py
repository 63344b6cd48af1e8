"""Maximum Mean Discrepancy between samples of token sequences, or of features."""

from dmmd_jax.mmd import kernels
from dmmd_jax.mmd.estimators import mmd2, mmd2_to
from dmmd_jax.mmd.two_sample import two_sample_test

__all__ = ["kernels", "mmd2", "mmd2_to", "two_sample_test"]
