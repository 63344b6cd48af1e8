"""Grids of times."""

import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import registry, schedules
from dmmd_jax.diffusion.samplers.grids import GRIDS, Cosine, Even, LogSNR, Own
from tests import enumeration

LINEAR = schedules.Linear()


def times(grid, total, schedule=LINEAR, start=1.0):
  left = jnp.arange(total, -1, -1)
  return np.asarray(grid(schedule, jnp.full(total + 1, start), left, total))


def test_the_names_are_those_of_the_registry():
  assert tuple(GRIDS) == registry.GRIDS


@pytest.mark.parametrize("grid", [Even(), Cosine(), LogSNR(), Own((1.0, 0.9, 0.2, 0.0))], ids=repr)
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_times_fall_from_the_start_to_zero(grid, start):
  for total in (1, 4, 7):
    found = times(grid, total, schedules.Cosine(), start)
    np.testing.assert_allclose(found[[0, -1]], [start, 0.0], atol=1e-6)
    assert (np.diff(found) < 0).all() and found.max() < start + 1e-6


def test_each_grid_has_its_times():
  np.testing.assert_allclose(times(Even(), 4), [1, 0.75, 0.5, 0.25, 0])
  np.testing.assert_allclose(times(Cosine(), 3), [1, np.sqrt(0.75), 0.5, 0], atol=1e-6)
  own = times(Own((1.0, 0.9, 0.2, 0.0)), 6)
  np.testing.assert_allclose(own, [1, 0.95, 0.9, 0.55, 0.2, 0.1, 0], atol=1e-6)


@pytest.mark.parametrize("schedule", enumeration.SCHEDULES, ids=repr)
def test_log_snr_is_even_but_for_the_stretch(schedule):
  t = times(LogSNR(), 8, schedule).astype(float)
  beta = 1 - enumeration.alpha(schedule, t)
  beta = 0.01 + 0.98 * beta
  np.testing.assert_allclose(np.diff(np.log((1 - beta) / beta)), np.log(99) / 4, rtol=2e-3)
