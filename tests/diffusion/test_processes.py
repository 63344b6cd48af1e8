import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes
from tests import enumeration

K = 3
INNER = [(0.0, 0.3), (0.2, 0.7), (0.5, 0.5), (0.4, 1.0), (0.0, 1.0)]
EDGES = [(0.0, 0.0), (1.0, 1.0), (0.0, 1e-7), (1e-7, 2e-7), (1 - 1e-6, 1.0), (0.999999, 0.999999)]
each_process = pytest.mark.parametrize("process", enumeration.ALL_PROCESSES, ids=enumeration.name)


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
