"""Maximum Mean Discrepancy between samples of token sequences, or of features."""

from dmmd_jax.mmd import kernels
from dmmd_jax.mmd.estimators import mmd2
from dmmd_jax.mmd.two_sample import two_sample_test

__all__ = ["kernels", "mmd2", "two_sample_test"]
