import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data import toy
from tests import enumeration

K, D = 3, 2


def small_mixture():
  rng = np.random.default_rng(0)
  return toy.Mixture(rng.dirichlet(np.ones(4)), rng.dirichlet(np.full(K, 0.5), size=(4, D)))


def exact_joint(mixture):
  x = enumeration.sequences(K, D)
  return np.exp(mixture.log_joint(x)).sum(-1)


@pytest.mark.parametrize("process", enumeration.ALL_PROCESSES, ids=enumeration.name)
@pytest.mark.parametrize("t", [1e-3, 0.4, 1.0])
def test_exact_mean_equals_enumeration(process, t):
  mixture = small_mixture()
  enumeration.check_exact_mean(mixture, exact_joint(mixture), process, D, t)


def test_samples_follow_the_joint():
  mixture = small_mixture()
  joint = exact_joint(mixture)
  np.testing.assert_allclose(joint.sum(), 1.0)
  x = mixture.sample(50_000, seed=0)
  counts = np.bincount(x[:, 0] * K + x[:, 1], minlength=K**D) / len(x)
  np.testing.assert_allclose(counts, joint, atol=5 * 0.5 / np.sqrt(len(x)))


def test_coins_agree_and_data_sets_are_fixed():
  coins = toy.load("coins")
  assert (coins.train[:, 0] == coins.train[:, 1]).all() and coins.shape == (2,)
  again = toy.load("coins")
  assert (again.held_out == coins.held_out).all()
  assert coins.validation.shape == coins.held_out.shape  # another draw, not the same one
  assert (coins.validation != coins.held_out).any() and (again.validation == coins.validation).all()
  mixture = toy.load("mixture")
  assert mixture.shape == (12,) and mixture.num_categories == 6
  assert mixture.train.dtype == np.int32
  z = jax.numpy.asarray(mixture.train[:4])
  assert jnp.isfinite(mixture.joint.log_mean(_masked(), z, jnp.zeros(4))).all()


def _masked():
  from dmmd_jax.diffusion.processes import Masked

  return Masked(6)
