import jax.numpy as jnp
import numpy as np
import pytest

from tests import enumeration

TIMES = np.array([0.0, 1e-6, 1e-3, 0.2, 0.5, 0.8, 0.999, 1 - 1e-6, 1.0])


@pytest.mark.parametrize("schedule", enumeration.SCHEDULES, ids=repr)
def test_alpha_and_beta_are_accurate_and_exact_at_the_ends(schedule):
  t = jnp.asarray(TIMES, jnp.float32)
  exact = enumeration.alpha(schedule, np.asarray(t, np.float64))
  np.testing.assert_allclose(schedule.alpha(t), exact, rtol=1e-4, atol=1e-12)
  np.testing.assert_allclose(schedule.beta(t), 1 - exact, rtol=1e-4, atol=1e-12)
  assert schedule.alpha(t)[0] == 1 and schedule.alpha(t)[-1] == 0
  assert schedule.beta(t)[0] == 0 and schedule.beta(t)[-1] == 1


@pytest.mark.parametrize("schedule", enumeration.SCHEDULES, ids=repr)
def test_alpha_prime_is_the_derivative(schedule):
  t = TIMES[2:-2]
  expected = enumeration.alpha_prime(schedule, t)
  np.testing.assert_allclose(schedule.alpha_prime(jnp.asarray(t)), expected, rtol=1e-4, atol=1e-5)
