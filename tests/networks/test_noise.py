import functools

import jax
import numpy as np
import pytest

from dmmd_jax.networks.noise import noise_channels, pyramid_levels, sample_noise


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def jitted(*args):
  return sample_noise(*args)


def sample(*args):
  return np.asarray(jitted(*args))


@pytest.mark.parametrize("shape", [(8, 8, 1), (6, 10, 3)])
def test_pyramid_has_unit_variance_and_the_right_resolutions(shape):
  noise = sample(jax.random.key(0), "pyramid", 512, shape, 2)
  assert noise.shape == (512, *shape[:2], noise_channels("pyramid", shape, 2))
  np.testing.assert_allclose(noise.std((0, 1, 2)), 1.0, atol=0.1)
  fine, coarse = noise[..., 0], noise[..., -1]
  assert (coarse == coarse[:, :1, :1]).all()  # one number for the whole image
  neighbours = np.corrcoef(fine[:, 0, 0], fine[:, 0, 1])[0, 1]
  assert abs(neighbours) < 0.2


def test_levels_reach_one_pixel():
  assert pyramid_levels(8, 8) == 4 and pyramid_levels(32, 32) == 6 and pyramid_levels(5, 3) == 4


def test_gaussian_noise_per_position_and_none():
  for shape, expected in (((12,), (2, 12, 3)), ((8, 8, 3), (2, 8, 8, 3))):
    draw = lambda key, shape=shape: sample_noise(key, "gaussian", 2, shape, 3)
    assert jax.eval_shape(draw, jax.random.key(0)).shape == expected
  assert sample_noise(None, "none", 2, (12,), 3) is None


@pytest.mark.parametrize("shape", [(6,), (4, 2, 3)])
def test_a_latent_is_one_uniform_number_for_all_positions_of_an_example(shape):
  noise = sample(jax.random.key(0), "latent", 20_000, shape, 3)
  assert noise.shape == (20_000, *shape[:2], noise_channels("latent", shape, 3))
  features = noise.reshape(20_000, -1, 3)
  assert (features == features[:, :1]).all()
  np.testing.assert_allclose(np.cov(features[:, 0].T), np.eye(3), atol=0.03)
  np.testing.assert_allclose(features[:, 0].mean(0), 0.0, atol=0.03)
  latent = np.arccos(features[:, 0, 0] / np.sqrt(2)) / np.pi  # the first tells it
  assert abs(np.sort(latent) - np.arange(0.5, 20_000) / 20_000).max() < 0.015
  np.testing.assert_allclose(features[:, 0, 2], np.sqrt(2) * np.cos(3 * np.pi * latent), atol=1e-2)


@pytest.mark.parametrize(
  ("kind", "shape"), [("gaussian", (5,)), ("latent", (5,)), ("pyramid", (4, 4, 1))]
)
def test_noise_of_a_key_per_example_does_not_depend_on_the_others(kind, shape):
  keys = jax.random.split(jax.random.key(3), 4)
  noise = sample(keys, kind, 4, shape, 2)
  assert noise.shape == (4, *shape[:2], noise_channels(kind, shape, 2))
  assert len(np.unique(noise[:, 0].reshape(4, -1)[:, 0])) == 4
  swapped = sample(keys[np.array([2, 0])], kind, 2, shape, 2)
  np.testing.assert_array_equal(swapped, noise[[2, 0]])
  one = sample(keys[1], kind, 1, shape, 2)[0]
  np.testing.assert_array_equal(one, noise[1])
