import jax
import numpy as np
import pytest

from dmmd_jax.networks.noise import noise_channels, pyramid_levels, sample_noise


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 10, 3)])
def test_pyramid_has_unit_variance_and_the_right_resolutions(shape):
  noise = np.asarray(sample_noise(jax.random.key(0), "pyramid", 512, shape, 2))
  assert noise.shape == (512, *shape[:2], noise_channels("pyramid", shape, 2))
  np.testing.assert_allclose(noise.std((0, 1, 2)), 1.0, atol=0.1)
  fine, coarse = noise[..., 0], noise[..., -1]
  assert (coarse == coarse[:, :1, :1]).all()  # one number for the whole image
  neighbours = np.corrcoef(fine[:, 0, 0], fine[:, 0, 1])[0, 1]
  assert abs(neighbours) < 0.2


def test_levels_reach_one_pixel():
  assert pyramid_levels(8, 8) == 4 and pyramid_levels(32, 32) == 6 and pyramid_levels(5, 3) == 4


def test_gaussian_noise_per_position_and_none():
  assert sample_noise(jax.random.key(0), "gaussian", 2, (12,), 3).shape == (2, 12, 3)
  assert sample_noise(jax.random.key(0), "gaussian", 2, (8, 8, 3), 3).shape == (2, 8, 8, 3)
  assert sample_noise(None, "none", 2, (12,), 3) is None
