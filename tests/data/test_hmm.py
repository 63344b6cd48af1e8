"""The hidden Markov source against enumeration of all sequences, and of all walks."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data import hmm
from tests import enumeration

K, D, S = 3, 4, 2


def small():
  rng = np.random.default_rng(5)
  transition, emission = rng.dirichlet(np.ones(S), size=S), rng.dirichlet(np.ones(K), size=S)
  return hmm.HiddenMarkov(transition, emission, D)


def exact_joint(model):
  """`p(x)` of all sequences: the sum over all walks of hidden states."""
  x, total = enumeration.sequences(K, D), 0.0
  for walk in itertools.product(range(S), repeat=D):
    p = model.stationary[walk[0]] * np.prod(
      [model.transition[a, b] for a, b in itertools.pairwise(walk)]
    )
    total += p * np.prod([model.emission[s, x[:, d]] for d, s in enumerate(walk)], axis=0)
  return total


def test_the_likelihood_is_the_sum_over_all_walks():
  model = small()
  joint = exact_joint(model)
  np.testing.assert_allclose(joint.sum(), 1.0)
  np.testing.assert_allclose(model.log_prob(enumeration.sequences(K, D)), np.log(joint))
  np.testing.assert_allclose(model.stationary @ model.transition, model.stationary)


@pytest.mark.parametrize("process", enumeration.ALL_PROCESSES, ids=enumeration.name)
@pytest.mark.parametrize("t", [1e-3, 0.4, 1.0])
def test_the_exact_mean_equals_enumeration(process, t):
  model = small()
  enumeration.check_exact_mean(model, exact_joint(model), process, D, t)


def test_samples_and_pairs_follow_the_joint():
  model = small()
  joint, x = exact_joint(model), model.sample(50_000, seed=0)
  counts = np.bincount(x @ K ** np.arange(D)[::-1], minlength=K**D) / len(x)
  np.testing.assert_allclose(counts, joint, atol=5 * 0.5 / np.sqrt(len(x)))
  every = enumeration.sequences(K, D)
  for first, second in ((0, 1), (1, 3), (0, 3)):
    expected = np.zeros((K, K))
    np.add.at(expected, (every[:, first], every[:, second]), joint)
    np.testing.assert_allclose(model.pairs(second - first), expected, atol=1e-12)


def test_the_model_of_a_size_is_always_the_same_and_long_sequences_stay_finite():
  data, again = (hmm.load(64, 32, 16, num_train=64, num_held_out=32) for _ in range(2))
  np.testing.assert_array_equal(data.train, again.train)
  assert data.shape == (64,) and data.num_categories == 32 and data.train.max() < 32
  assert not np.array_equal(data.validation, data.held_out)
  worst = np.argmin(data.joint.emission.max(0)) * np.ones((2, 64), int)
  assert np.isfinite(data.joint.log_prob(worst)).all()
  process = enumeration.ALL_PROCESSES[0].__class__(32)
  for t in (0.0, 1e-6, 1.0):
    assert jnp.isfinite(data.joint.log_mean(process, jnp.asarray(worst), jnp.full(2, t))).all()
