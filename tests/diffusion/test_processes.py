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


def pairs(process):
  """Every (z_t, x), flat."""
  z, x = np.meshgrid(range(process.num_states), range(K), indexing="ij")
  return jnp.asarray(z.reshape(-1, 1)), jnp.asarray(x.reshape(-1, 1))


def times(s, t, like):
  return jnp.full(len(like), s), jnp.full(len(like), t)


@each_process
@pytest.mark.parametrize(("s", "t"), INNER)
def test_posterior_equals_enumeration(process, s, t):
  z_t, x = pairs(process)
  q = process.posterior_probs(z_t, jax.nn.one_hot(x, K), *times(s, t, z_t))
  s, t = max(s, 1e-15), min(t, 1 - 1e-15)
  for i in range(len(z_t)):
    possible = enumeration.transition(process, 0.0, t)[x[i, 0], z_t[i, 0]] > 1e-9
    if possible:
      expected = enumeration.posterior(process, int(z_t[i, 0]), np.eye(K)[x[i, 0]], s, t)
      np.testing.assert_allclose(q[i, 0], expected, atol=1e-5)


@each_process
@pytest.mark.parametrize(("s", "t"), INNER + EDGES)
def test_posterior_is_finite_and_normalised_everywhere(process, s, t):
  z_t, x = pairs(process)
  soft = 0.9 * jax.nn.one_hot(x, K) + 0.1 / K
  for probs in (jax.nn.one_hot(x, K), soft):
    q = process.posterior_probs(z_t, probs, *times(s, t, z_t))
    assert not jnp.isnan(q).any()
    np.testing.assert_allclose(q.sum(-1), 1.0, atol=1e-5)


@each_process
def test_posterior_is_the_identity_at_equal_times_and_clean_at_zero(process):
  x = jnp.arange(K)[:, None]
  for t in (1e-6, 0.3, 1 - 1e-6, 1.0):
    z_t = process.corrupt(jax.random.key(0), x, jnp.full(K, t))
    q = process.posterior_probs(z_t, jax.nn.one_hot(x, K), *times(t, t, x))
    np.testing.assert_allclose(q, jax.nn.one_hot(z_t, process.num_states), atol=1e-6)
    key = jax.random.key(1)
    assert (process.sample_posterior(key, z_t, x, *times(t, t, x)) == z_t).all()
    assert (process.sample_posterior(key, z_t, x, *times(0.0, t, x)) == x).all()


@each_process
@pytest.mark.parametrize(("s", "t"), [(0.2, 0.7), (0.4, 1.0), (0.5, 0.5)])
def test_samples_follow_the_posterior(process, s, t):
  z_t, x = pairs(process)
  q = process.posterior_probs(z_t, jax.nn.one_hot(x, K), *times(s, t, z_t))
  n = 40_000
  z_many, x_many = jnp.tile(z_t, (1, n)), jnp.tile(x, (1, n))
  drawn = process.sample_posterior(jax.random.key(0), z_many, x_many, *times(s, t, z_t))
  share = jax.nn.one_hot(drawn, process.num_states).mean(1)
  for i in range(len(z_t)):
    if enumeration.transition(process, 0.0, min(t, 1 - 1e-12))[x[i, 0], z_t[i, 0]] > 1e-9:
      np.testing.assert_allclose(share[i], q[i, 0], atol=5 * 0.5 / np.sqrt(n))


@each_process
@pytest.mark.parametrize("t", [0.0, 1e-6, 0.4, 1.0])
def test_corruption_follows_the_marginal(process, t):
  x = jnp.arange(K)[:, None]
  log_x = jnp.log(jax.nn.one_hot(x, K))
  probs = np.exp(process.log_marginal(log_x, jnp.full(K, t)))[:, 0]
  np.testing.assert_allclose(probs, enumeration.transition(process, 0.0, t)[:K], atol=1e-6)
  n = 40_000
  drawn = process.corrupt(jax.random.key(0), jnp.tile(x, (1, n)), jnp.full(K, t))
  share = jax.nn.one_hot(drawn, process.num_states).mean(1)
  np.testing.assert_allclose(share, probs, atol=5 * 0.5 / np.sqrt(n))


@each_process
@pytest.mark.parametrize("t", [0.3, 0.9])
def test_to_mean_is_the_bayes_step_between_the_two_predictions(process, t):
  length = 2
  joint = np.random.default_rng(0).dirichlet(np.ones(K**length))
  z = enumeration.sequences(process.num_states, length)
  mean, left_out = enumeration.predictions(process, joint, z, t)
  log_mean = process.to_mean(jnp.log(left_out), jnp.asarray(z), jnp.full(len(z), t))
  np.testing.assert_allclose(np.exp(log_mean), mean, atol=1e-5)


@each_process
def test_stepping_with_the_mean_prediction_is_exact(process):
  """One position: drawing x from the mean, then z_s, gives the true q(z_s | z_t)."""
  joint, s, t = np.array([0.5, 0.3, 0.2]), 0.25, 0.75
  z = np.arange(process.num_states)[:, None]
  mean, left_out = enumeration.predictions(process, joint, z, t)
  prior_s = joint @ enumeration.transition(process, 0.0, s)[:K]
  truth = prior_s[:, None] * enumeration.transition(process, s, t)
  truth = (truth / truth.sum(0)).T
  s, t = times(s, t, z)
  z = jnp.asarray(z)
  per_x = jnp.stack(
    [process.posterior_probs(z, jax.nn.one_hot(z * 0 + c, K), s, t) for c in range(K)]
  )
  stepped = jnp.einsum("bdc,cbds->bs", jnp.asarray(mean), per_x)
  np.testing.assert_allclose(stepped, truth, atol=1e-5)
  plugged = process.posterior_probs(z, jnp.asarray(left_out, jnp.float32), s, t)[:, 0]
  np.testing.assert_allclose(plugged, truth, atol=1e-5)


def test_active_positions():
  z = jnp.array([[0, 3, 2]])
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
    processes.spread(t, 2, 6), jnp.array([[0.1] * 3 + [0.2] * 3, [0.3] * 3 + [0.4] * 3])
  )
  assert processes.expand(t, jnp.zeros((4, 5, 6))).shape == (4, 1, 1)
  assert processes.expand(jnp.zeros((4, 5)), jnp.zeros((4, 5, 6))).shape == (4, 5, 1)
  x = jnp.tile(jnp.arange(K), (2, 2))
  process, t = processes.Masked(K), jnp.array([[0.0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]])
  z = process.corrupt(jax.random.key(0), x, t)
  np.testing.assert_array_equal(z, jnp.where(t == 0, x, K))
  # From t = 1 to s = 0: everything is revealed; to s = 1: nothing.
  drawn = process.sample_posterior(jax.random.key(0), jnp.full_like(x, K), x, t, jnp.ones_like(t))
  np.testing.assert_array_equal(drawn, z)


@each_process
def test_the_prior_is_the_stationary_distribution(process):
  z = process.sample_prior(jax.random.key(0), (100, 400))
  assert z.shape == (100, 400) and z.dtype == jnp.int32
  pi = enumeration.stationary(process)
  share = np.bincount(z.reshape(-1), minlength=process.num_states) / z.size
  np.testing.assert_allclose(share, pi, atol=5 * 0.5 / 200)
  np.testing.assert_allclose(process.stationary(), pi, rtol=1e-6)
  assert process.stationary().dtype == jnp.float32
  every = jnp.arange(process.num_states)
  np.testing.assert_allclose(process.stationary_at(every), pi, rtol=1e-6)
  assert (z == process.sample_prior(jax.random.key(0), (100, 400))).all()


@each_process_without_masks
def test_the_clean_token_wins_where_everything_is_clean_and_contradicts_it(process):
  z_t, x = jnp.array([[0, 1, 2]]), jnp.array([[1, 1, 0]])
  zero = jnp.zeros(1)
  assert (process.sample_posterior(jax.random.key(0), z_t, x, zero, zero) == x).all()
  probs = process.posterior_probs(z_t, jax.nn.one_hot(x, K), zero, zero)
  np.testing.assert_array_equal(probs, jax.nn.one_hot(x, K))


@each_process
@pytest.mark.parametrize(("s", "t"), [(1e-4, 3e-4), (1 - 3e-4, 1 - 1e-4), (0.4999, 0.5001)])
def test_small_steps_near_the_ends_have_all_digits(process, s, t):
  """Of two equal differences the one that does not cancel is taken."""
  s, t = (float(np.float32(time)) for time in (s, t))
  a_s, a_t = (enumeration.alpha(process.schedule, time) for time in (s, t))
  z_t = process.num_states - 1  # a mask, or a category other than x = 0
  found = process.posterior_probs(jnp.array([z_t]), jnp.eye(K)[:1], jnp.array([s]), jnp.array([t]))[
    0
  ]
  pi = enumeration.stationary(process)
  likelihood = (1 - a_t / a_s) * pi[z_t] + a_t / a_s * (np.arange(len(pi)) == z_t)
  expected = likelihood * (a_s * (np.arange(len(pi)) == 0) + (1 - a_s) * pi)
  np.testing.assert_allclose(found, expected / expected.sum(), rtol=2e-4)


@each_process
def test_log_marginal_where_a_prediction_underflows(process):
  log_x = jnp.array([[-200.0, 0.0, -300.0]])

  def log_marginal(log_x, t):
    return process.log_marginal(log_x, jnp.array([t]))[0]

  np.testing.assert_array_equal(log_marginal(log_x, 0.0)[:K], log_x[0])
  grad = jax.jacobian(log_marginal)(log_x, 0.0)[:K, 0]
  np.testing.assert_array_equal(grad, jnp.eye(K))
  pi = enumeration.stationary(process)
  a = enumeration.alpha(process.schedule, 0.5)
  with np.errstate(divide="ignore"):
    expected = np.log(a * np.pad(np.exp(np.float64(log_x[0])), (0, len(pi) - K)) + (1 - a) * pi)
  np.testing.assert_allclose(log_marginal(log_x, 0.5), expected, rtol=1e-5)


def test_a_visible_token_is_known_whatever_a_masked_network_says_of_it():
  z, t = jnp.array([[0, 3, 2]]), jnp.array([0.9999])
  log_x = jnp.log(jnp.array([[[1e-38, 0.5, 0.5], [0.2, 0.3, 0.5], [0.5, 0.5, 1e-38]]]))
  log_mean = processes.Masked(3).to_mean(log_x, z, t)
  np.testing.assert_array_equal(log_mean[0, 1], log_x[0, 1])
  np.testing.assert_allclose(jnp.exp(log_mean[0, ::2]), [[1, 0, 0], [0, 0, 1]], atol=1e-20)
  assert jnp.isfinite(log_mean).all()


def test_to_mean_is_certain_at_time_zero_and_the_prediction_itself_at_one():
  process, z = processes.Uniform(3), jnp.array([1, 2])
  log_x = jnp.log(jnp.array([[0.2, 0.3, 0.5]] * 2))
  found = process.to_mean(log_x, z, jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(jnp.exp(found), [[0, 1, 0], [0.2, 0.3, 0.5]], atol=1e-6)
  assert jnp.isfinite(found).all() and found[0].min() < -60


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
