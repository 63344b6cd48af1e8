import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes, schedules
from tests import enumeration

K = 3
INNER = [(0.0, 0.3), (0.2, 0.7), (0.5, 0.5), (0.4, 1.0), (0.0, 1.0)]
EDGES = [(0.0, 0.0), (1.0, 1.0), (0.0, 1e-7), (1e-7, 2e-7), (1 - 1e-6, 1.0), (0.999999, 0.999999)]
each_process = pytest.mark.parametrize("process", enumeration.ALL_PROCESSES, ids=enumeration.name)
# A visible token of the masked process stays, whatever the clean one is said to be.
each_process_without_masks = pytest.mark.parametrize(
  "process",
  [p for p in enumeration.ALL_PROCESSES if not isinstance(p, processes.Masked)],
  ids=enumeration.name,
)


class Laws(NamedTuple):
  """What a process says of `n` tokens; `slopes` are those of `marginal` in `log_x`."""

  posterior: jax.Array
  marginal: jax.Array
  mean: jax.Array
  slopes: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def _laws(process, z_t, x, log_x, s, t):
  def marginal(log_x, t):
    return process.log_marginal(log_x[None], t[None])[0]

  return Laws(
    process.posterior_probs(z_t, x, s, t),
    process.log_marginal(log_x, t),
    process.to_mean(log_x, z_t, t),
    jax.vmap(jax.jacobian(marginal))(log_x[:, 0], t),
  )


def laws(process, z_t, x, s, t, log_x=None):
  """Laws of tokens `z_t` `[n]`, for probabilities `x` `[n, K]` or their logarithms.

  One program for each process, as any number of tokens is filled up to that of the largest case.
  """
  with np.errstate(divide="ignore"):
    log_x = np.log(x) if log_x is None else log_x
  x = np.exp(log_x) if x is None else x
  size = process.num_states**2 * 2
  arrays = np.reshape(z_t, (-1, 1)), x[:, None], log_x[:, None], np.ravel(s), np.ravel(t)
  found = _laws(process, *(np.resize(a, (size, *a.shape[1:])) for a in arrays))
  found = [np.asarray(a)[: len(z_t)] for a in found]
  return Laws(*(a[:, 0] for a in found[:3]), found[3])


N = 10_000
_posterior_draws = jax.jit(lambda process, *args: process.sample_posterior(*args), static_argnums=0)
_corrupt = jax.jit(lambda process, *args: process.corrupt(*args), static_argnums=0)


def posterior_draws(process, seed, z_t, x, s, t):
  """`N` draws of `z_s` for each of tokens `z_t` and `x` `[n]`, `[n, N]`; filled up, as above."""
  size = 4 * K
  z_many, x_many = (np.tile(np.resize(a, (size, 1)), (1, N)) for a in (z_t, x))
  times = np.resize(s, size), np.resize(t, size)
  drawn = _posterior_draws(process, jax.random.key(seed), z_many, x_many, *times)
  return np.asarray(drawn)[: len(z_t)]


def corrupted(process, seed, t):
  """`N` draws of `z_t` for each clean token, `[K, N]`."""
  x = np.tile(np.arange(K)[:, None], (1, N))
  return np.asarray(_corrupt(process, jax.random.key(seed), x, np.full(K, t)))


def assert_drawn_from(probs, drawn):
  """Draws `[n, N]` of laws `[n, states]`, within five standard errors."""
  share = np.stack([np.bincount(row, minlength=probs.shape[1]) for row in drawn]) / N
  error = np.sqrt(probs * (1 - probs).clip(0) / N)
  assert (np.abs(share - probs) < 5 * error + 1e-5).all()


def pairs(process):
  """Every (z_t, x), flat."""
  z, x = np.meshgrid(range(process.num_states), range(K), indexing="ij")
  return z.reshape(-1), x.reshape(-1)


@each_process
@pytest.mark.parametrize(("s", "t"), INNER)
def test_posterior_equals_enumeration(process, s, t):
  z_t, x = pairs(process)
  q = laws(process, z_t, np.eye(K)[x], s, t).posterior
  s, t = max(s, 1e-15), min(t, 1 - 1e-15)
  for i in np.flatnonzero(enumeration.transition(process, 0.0, t)[x, z_t] > 1e-9):
    expected = enumeration.posterior(process, z_t[i], np.eye(K)[x[i]], s, t)
    np.testing.assert_allclose(q[i], expected, atol=1e-5)


@each_process
@pytest.mark.parametrize(("s", "t"), INNER + EDGES)
def test_posterior_is_finite_and_normalised_everywhere(process, s, t):
  z_t, x = pairs(process)
  for probs in (np.eye(K)[x], 0.9 * np.eye(K)[x] + 0.1 / K):
    q = laws(process, z_t, probs, s, t).posterior
    assert not np.isnan(q).any()
    np.testing.assert_allclose(q.sum(-1), 1.0, atol=1e-5)


@each_process
def test_posterior_is_the_identity_at_equal_times_and_clean_at_zero(process):
  t, x = (a.reshape(-1) for a in np.meshgrid((1e-6, 0.3, 1 - 1e-6, 1.0), range(K), indexing="ij"))
  z_t = np.concatenate([corrupted(process, 0, time)[:, 0] for time in t[::K]])
  q = laws(process, z_t, np.eye(K)[x], t, t).posterior
  np.testing.assert_allclose(q, np.eye(process.num_states)[z_t], atol=1e-6)
  assert (posterior_draws(process, 1, z_t, x, t, t) == z_t[:, None]).all()
  assert (posterior_draws(process, 1, z_t, x, 0.0, t) == x[:, None]).all()


@each_process
@pytest.mark.parametrize(("s", "t"), [(0.2, 0.7), (0.4, 1.0)])
def test_samples_follow_the_posterior(process, s, t):
  z_t, x = pairs(process)
  q = laws(process, z_t, np.eye(K)[x], s, t).posterior
  where = enumeration.transition(process, 0.0, min(t, 1 - 1e-12))[x, z_t] > 1e-9
  assert_drawn_from(q[where], posterior_draws(process, 0, z_t, x, s, t)[where])


@each_process
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.4, 1.0])
def test_corruption_follows_the_marginal(process, t):
  x = np.arange(K)
  probs = np.exp(laws(process, x, np.eye(K), t, t).marginal)
  np.testing.assert_allclose(probs, enumeration.transition(process, 0.0, t)[:K], atol=1e-6)
  assert_drawn_from(probs, corrupted(process, 0, t))


@each_process
@pytest.mark.parametrize("t", [0.3, 0.9])
def test_to_mean_is_the_bayes_step_between_the_two_predictions(process, t):
  length = 2
  joint = np.random.default_rng(0).dirichlet(np.ones(K**length))
  z = enumeration.sequences(process.num_states, length)
  mean, left_out = enumeration.predictions(process, joint, z, t)
  log_mean = laws(process, z.reshape(-1), left_out.reshape(-1, K), t, t).mean
  np.testing.assert_allclose(np.exp(log_mean).reshape(mean.shape), mean, atol=1e-5)


@each_process
def test_stepping_with_the_mean_prediction_is_exact(process):
  """One position: drawing x from the mean, then z_s, gives the true q(z_s | z_t)."""
  joint, s, t = np.array([0.5, 0.3, 0.2]), 0.25, 0.75
  z = np.arange(process.num_states)
  mean, left_out = enumeration.predictions(process, joint, z[:, None], t)
  prior_s = joint @ enumeration.transition(process, 0.0, s)[:K]
  truth = prior_s[:, None] * enumeration.transition(process, s, t)
  truth = (truth / truth.sum(0)).T
  z_t, x = pairs(process)
  per_x = laws(process, z_t, np.eye(K)[x], s, t).posterior.reshape(len(z), K, -1)
  np.testing.assert_allclose(np.einsum("bc,bcs->bs", mean[:, 0], per_x), truth, atol=1e-5)
  plugged = laws(process, z, left_out[:, 0], s, t).posterior
  np.testing.assert_allclose(plugged, truth, atol=1e-5)


def test_active_positions():
  z = np.array([[0, 3, 2]])
  assert processes.Masked(3).active(z).tolist() == [[False, True, False]]
  assert processes.Uniform(4).active(z).all()


def test_marginal_rejects_a_histogram_with_zeros():
  with pytest.raises(ValueError, match="smooth the histogram"):
    processes.Marginal(3, probs=(0.5, 0.5, 0.0))


def test_processes_are_values():
  assert processes.Masked(3) == processes.Masked(3) and hash(processes.Uniform(3))
  assert processes.Uniform(3) != processes.Uniform(4)


def test_times_of_blocks_and_tokens():
  t = jnp.array([0.1, 0.2, 0.3, 0.4])
  assert processes.spread(t, 1, 6) is t
  np.testing.assert_array_equal(
    processes.spread(t, 2, 6),
    np.array([[0.1] * 3 + [0.2] * 3, [0.3] * 3 + [0.4] * 3], np.float32),
  )
  assert processes.expand(np.zeros(4), np.zeros((4, 5, 6))).shape == (4, 1, 1)
  assert processes.expand(np.zeros((4, 5)), np.zeros((4, 5, 6))).shape == (4, 5, 1)
  x = np.tile(np.arange(K), (2, 2))
  process, t = processes.Masked(K), np.array([[0.0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
  z = _corrupt(process, jax.random.key(0), x, t)
  np.testing.assert_array_equal(z, np.where(t == 0, x, K))
  # From t = 1 to s = 0: everything is revealed; to s = 1: nothing.
  masked, ones = np.full_like(x, K), np.ones_like(t)
  drawn = _posterior_draws(process, jax.random.key(0), masked, x, t, ones)
  np.testing.assert_array_equal(drawn, z)


@pytest.mark.parametrize("process", enumeration.make_processes(K, schedules.Linear()))
def test_the_prior_is_the_stationary_distribution(process):
  def draw(key):
    every = jnp.arange(process.num_states)
    z = process.sample_prior(key, (100, 400))
    return z, process.stationary(), process.stationary_at(every)

  z, stationary, stationary_at = jax.jit(draw)(jax.random.key(0))
  assert z.shape == (100, 400) and z.dtype == jnp.int32
  pi = enumeration.stationary(process)
  share = np.bincount(np.ravel(z), minlength=process.num_states) / z.size
  np.testing.assert_allclose(share, pi, atol=5 * 0.5 / 200)
  np.testing.assert_allclose(stationary, pi, rtol=1e-6)
  assert stationary.dtype == jnp.float32
  np.testing.assert_allclose(stationary_at, pi, rtol=1e-6)


@each_process_without_masks
def test_the_clean_token_wins_where_everything_is_clean_and_contradicts_it(process):
  z_t, x = np.array([0, 1, 2]), np.array([1, 1, 0])
  assert (posterior_draws(process, 0, z_t, x, 0.0, 0.0) == x[:, None]).all()
  probs = laws(process, z_t, np.eye(K)[x], 0.0, 0.0).posterior
  np.testing.assert_array_equal(probs, np.eye(K)[x])


@each_process
@pytest.mark.parametrize(("s", "t"), [(1e-4, 3e-4), (1 - 3e-4, 1 - 1e-4), (0.4999, 0.5001)])
def test_small_steps_near_the_ends_have_all_digits(process, s, t):
  """Of two equal differences the one that does not cancel is taken."""
  s, t = (float(np.float32(time)) for time in (s, t))
  a_s, a_t = (enumeration.alpha(process.schedule, time) for time in (s, t))
  z_t = process.num_states - 1  # a mask, or a category other than x = 0
  found = laws(process, [z_t], np.eye(K)[:1], s, t).posterior[0]
  pi = enumeration.stationary(process)
  likelihood = (1 - a_t / a_s) * pi[z_t] + a_t / a_s * (np.arange(len(pi)) == z_t)
  expected = likelihood * (a_s * (np.arange(len(pi)) == 0) + (1 - a_s) * pi)
  np.testing.assert_allclose(found, expected / expected.sum(), rtol=2e-4)


@each_process
def test_log_marginal_where_a_prediction_underflows(process):
  log_x = np.array([[-200.0, 0.0, -300.0]])
  at_0, at_half = (laws(process, [0], None, t, t, log_x) for t in (0.0, 0.5))
  np.testing.assert_array_equal(at_0.marginal[0, :K], log_x[0])
  np.testing.assert_array_equal(at_0.slopes[0, :K], np.eye(K))
  pi = enumeration.stationary(process)
  a = enumeration.alpha(process.schedule, 0.5)
  with np.errstate(divide="ignore"):
    expected = np.log(a * np.pad(np.exp(log_x[0]), (0, len(pi) - K)) + (1 - a) * pi)
  np.testing.assert_allclose(at_half.marginal[0], expected, rtol=1e-5)


def test_a_visible_token_is_known_whatever_a_masked_network_says_of_it():
  log_x = np.log([[1e-38, 0.5, 0.5], [0.2, 0.3, 0.5], [0.5, 0.5, 1e-38]])
  log_mean = laws(processes.Masked(3), [0, 3, 2], None, 0.9999, 0.9999, log_x).mean
  np.testing.assert_array_equal(log_mean[1], log_x[1].astype(np.float32))
  np.testing.assert_allclose(np.exp(log_mean[::2]), [[1, 0, 0], [0, 0, 1]], atol=1e-20)
  assert np.isfinite(log_mean).all()


def test_to_mean_is_certain_at_time_zero_and_the_prediction_itself_at_one():
  x, t = np.array([[0.2, 0.3, 0.5]] * 2), [0.0, 1.0]
  found = laws(processes.Uniform(3), [1, 2], x, t, t).mean
  np.testing.assert_allclose(np.exp(found), [[0, 1, 0], [0.2, 0.3, 0.5]], atol=1e-6)
  assert np.isfinite(found).all() and found[0].min() < -60


def test_stay_probability():
  process, t = processes.Masked(3), jnp.array([0.0, 0.5, 1.0])
  np.testing.assert_array_equal(process.stay_probability(0.5 * t, t), [0.0, 0.5, 0.5])
  assert process.num_states == 4 and processes.Uniform(3).num_states == 3


def test_a_marginal_is_normalised_and_checked():
  process = processes.Marginal(3, probs=(2.0, 1.0, 1.0))
  np.testing.assert_allclose(process.stationary(), [0.5, 0.25, 0.25])
  message = "needs 3 positive probabilities, found 2 of which the smallest is 0.5; smooth"
  with pytest.raises(ValueError, match=message):
    processes.Marginal(3, probs=(0.5, 0.5))
  with pytest.raises(ValueError, match="found 0 of which the smallest is None"):
    processes.Marginal(3)
  for kind in (processes.Masked, processes.Uniform):
    assert kind(3).schedule == schedules.Linear()


def test_a_process_says_what_its_stationary_distribution_is():
  for method in (processes.Process(3).stationary, lambda: processes.Process(3).sample_prior(0, ())):
    with pytest.raises(NotImplementedError):
      method()
