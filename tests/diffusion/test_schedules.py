import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import losses, processes, schedules
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


@pytest.mark.parametrize("schedule", enumeration.SCHEDULES, ids=repr)
def test_time_at_is_the_inverse_of_beta(schedule):
  beta = jnp.array([0.0, 1e-3, 0.1, 0.5, 0.9, 1.0])
  np.testing.assert_allclose(schedule.beta(schedule.time_at(beta)), beta, atol=1e-6)


def test_defaults():
  assert schedules.Polynomial() == schedules.Polynomial(2.0)


def test_a_slope_that_is_infinite_at_zero_is_large():
  """A power below 1: t = 0 is drawn once in 2^23 times, and must not end a run."""
  schedule = schedules.Polynomial(0.5)
  slope = schedule.alpha_prime(jnp.array([0.0, 1e-6, 0.25]))
  np.testing.assert_allclose(slope, [-5e5, -500.0, -1.0], rtol=1e-5)
  process, x = processes.Uniform(3, schedule), jnp.eye(3)[:1]
  t, z = jnp.zeros(1), jnp.zeros(1, int)
  grad = jax.grad(lambda log_x: losses.bound(process, x, log_x, z, t).sum())(jnp.log(x + 0.1))
  assert jnp.isfinite(grad).all()


@pytest.mark.parametrize("schedule", enumeration.SCHEDULES, ids=repr)
def test_no_time_has_a_weight_below_zero(schedule):
  """The cosine of float32's pi/2 is below 0: at t = 1 the bound would train the wrong way."""
  t = jnp.append(jnp.linspace(0.001, 1.0, 1000), 1.0)
  slope = jax.jit(schedule.alpha_prime)(t)
  assert (slope <= 0).all()
  if schedule == schedules.Cosine():
    assert slope[-1] == 0
