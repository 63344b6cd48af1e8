"""What networks are made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.networks.layers import Dropout


def dropped(rate, features, rows=20_000, training=True):
  """Ones `[rows, features]` after dropout."""
  layer = Dropout(rate, training)
  return layer.apply({}, jnp.ones((rows, features)), rngs={"dropout": jax.random.key(0)})


@pytest.mark.parametrize(("rate", "share"), [(0.1, 26 / 256), (0.5, 0.5), (0.9, 230 / 256)])
def test_dropout_is_independent_for_each_feature_and_keeps_the_mean(rate, share):
  h = np.asarray(dropped(rate, 10))  # three words of four features, of which two are not used
  is_zero = (h == 0.0).astype(float)
  error = np.sqrt(share * (1 - share) / len(h))
  np.testing.assert_allclose(is_zero.mean(0), share, atol=5 * error)
  np.testing.assert_allclose(h[h > 0], 1 / (1 - share), rtol=1e-6)
  correlations = np.corrcoef(is_zero.T) - np.eye(10)
  assert np.abs(correlations).max() < 5 / np.sqrt(len(h))


def test_nothing_is_dropped_outside_of_training_or_at_a_rate_of_0():
  for h in (dropped(0.5, 4, rows=2, training=False), dropped(0.0, 4, rows=2)):
    np.testing.assert_array_equal(h, 1.0)
  half = Dropout(0.5, True).apply(
    {}, jnp.ones((4, 8), jnp.bfloat16), rngs={"dropout": jax.random.key(0)}
  )
  assert half.dtype == jnp.bfloat16


def test_some_features_are_left_at_any_rate():
  assert 0 < (dropped(0.9999, 4) > 0).mean() < 0.01
