import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import losses, processes, schedules
from tests import enumeration

K, D = 3, 2
each_process = pytest.mark.parametrize("process", enumeration.ALL_PROCESSES, ids=enumeration.name)


def trained_meaning(process, joint, z, t):
  """What a network trained with the bound predicts."""
  mean, left_out = enumeration.predictions(process, joint, z, t)
  return mean if isinstance(process, processes.Masked) else left_out


@each_process
@pytest.mark.parametrize("t", [0.05, 0.4, 0.95])
def test_bound_equals_its_formula(process, t):
  rng = np.random.default_rng(0)
  x_hat = rng.dirichlet(np.ones(K), size=(process.num_states, K))
  z, x = np.meshgrid(range(process.num_states), range(K), indexing="ij")
  got = losses.bound(
    process,
    jax.nn.one_hot(x, K),
    jnp.log(x_hat),
    jnp.asarray(z),
    jnp.full(process.num_states, t),
  )
  for i, j in np.ndindex(z.shape):
    if enumeration.transition(process, 0.0, t)[x[i, j], z[i, j]] > 0:
      expected = enumeration.rate_bound(process, np.eye(K)[x[i, j]], x_hat[i, j], z[i, j], t)
      np.testing.assert_allclose(got[i, j], expected, rtol=2e-5, atol=1e-5)


def test_uniform_bound_equals_the_form_of_udlm_and_duo():
  process, t, rng = processes.Uniform(K), 0.6, np.random.default_rng(0)
  x_hat = rng.dirichlet(np.ones(K))
  x, i, a = np.eye(K)[1], 2, 1 - t
  bar, bar_hat = K * a * x + 1 - a, K * a * x_hat + 1 - a
  logs = np.log(bar_hat[i] * bar / (bar_hat * bar[i]))
  duo = -1 / (K * a) * (K / bar[i] - K / bar_hat[i] - (bar / bar[i] * logs).sum())
  got = losses.bound(
    process, jnp.asarray(x)[None], jnp.log(x_hat)[None], jnp.array([i]), jnp.array([t])
  )
  np.testing.assert_allclose(got[0], duo, rtol=1e-5)


@each_process
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_bound_is_the_limit_of_the_discrete_kl(process, t):
  """Against float64 KL divergences of ever smaller steps."""
  x_hat = np.random.default_rng(1).dirichlet(np.ones(K))
  for z, x in np.ndindex(process.num_states, K):
    if enumeration.transition(process, 0.0, t)[x, z] == 0:
      continue
    step = 1e-5
    q = enumeration.posterior(process, z, np.eye(K)[x], t - step, t)
    p = enumeration.posterior(process, z, x_hat, t - step, t)
    kl = np.where(q > 0, q * np.log(np.where(q > 0, q, 1) / np.where(p > 0, p, 1)), 0).sum()
    got = losses.bound(
      process,
      jax.nn.one_hot(jnp.array([x]), K),
      jnp.log(x_hat)[None],
      jnp.array([z]),
      jnp.array([t]),
    )
    np.testing.assert_allclose(got[0], kl / step, rtol=1e-3, atol=1e-4)


@each_process
def test_integral_of_the_bound_is_the_entropy_of_the_data(process):
  """With the exact prediction the continuous-time bound is tight: summed over all data, all
  corruptions and all times it is -log p(x), for a correlated joint over K^D."""
  joint = np.random.default_rng(0).dirichlet(np.full(K**D, 0.5))
  x = enumeration.sequences(K, D)
  z = enumeration.sequences(process.num_states, D)
  nodes, weights = np.polynomial.legendre.leggauss(40)
  # Near t = 0 the uniform bound varies fast: t = u^3 puts more nodes there.
  u, weights = (nodes + 1) / 2, weights / 2
  total = 0.0
  for t, weight in zip(u**3, weights * 3 * u**2, strict=True):
    prob = enumeration.likelihood(process, z, x, t).prod(-1) * joint  # [z, x]
    prediction = trained_meaning(process, joint, z, t)
    z_all, x_all = np.repeat(z, len(x), 0), np.tile(x, (len(z), 1))
    log_x_hat = jnp.log(jnp.maximum(np.repeat(np.nan_to_num(prediction), len(x), 0), 1e-30))
    per_position = losses.bound(
      process,
      jax.nn.one_hot(x_all, K),
      log_x_hat,
      jnp.asarray(z_all),
      jnp.full(len(z_all), t, jnp.float32),
    )
    values = np.asarray(per_position, np.float64).sum(-1).reshape(prob.shape)
    total += weight * (prob * np.where(prob > 0, values, 0)).sum()
  np.testing.assert_allclose(total, -(joint * np.log(joint)).sum(), rtol=1e-3)


@each_process
def test_discrete_bound_equals_enumeration(process):
  steps = 4
  x_hat = np.random.default_rng(2).dirichlet(np.ones(K))
  for i in range(1, steps + 1):
    t, s = i / steps, (i - 1) / steps
    for z, x in np.ndindex(process.num_states, K):
      if enumeration.transition(process, 0.0, t)[x, z] == 0:
        continue
      t_safe = min(t, 1 - 1e-12)
      q = enumeration.posterior(process, z, np.eye(K)[x], s, t_safe)
      p = enumeration.posterior(process, z, x_hat, s, t_safe)
      kl = np.where(q > 0, q * np.log(np.where(q > 0, q, 1) / np.where(p > 0, p, 1)), 0).sum()
      got = losses.discrete_bound(
        process,
        jax.nn.one_hot(jnp.array([x]), K),
        jnp.log(x_hat)[None],
        jnp.array([z]),
        jnp.array([t]),
        steps,
      )
      np.testing.assert_allclose(got[0], steps * kl, rtol=1e-4, atol=1e-5)


@each_process
@pytest.mark.parametrize("t", [0.0, 1e-7, 1e-4, 1 - 1e-4, 1 - 1e-7, 1.0])
def test_losses_and_gradients_are_finite_at_degenerate_times(process, t):
  logits = jax.random.normal(jax.random.key(0), (process.num_states * K, K))
  z, x = (a.reshape(-1) for a in np.meshgrid(range(process.num_states), range(K), indexing="ij"))
  target, z, t = jax.nn.one_hot(x, K), jnp.asarray(z), jnp.full(len(z), t)
  for loss in (losses.bound, losses.cross_entropy, losses.squared_error):

    def total(logits, loss=loss):
      return loss(process, target, jax.nn.log_softmax(logits), z, t).sum()

    value, grad = jax.value_and_grad(total)(logits)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all(), loss


@pytest.mark.parametrize("schedule", [schedules.Linear(), schedules.Cosine()], ids=repr)
def test_uniform_bound_is_accurate_close_to_pure_noise(schedule):
  """Rates of 1/alpha times a difference of order alpha^2: the naive formula drowns in rounding."""
  process, t = processes.Uniform(K, schedule), np.float32(1 - 1e-5)
  x_hat = np.array([0.2, 0.3, 0.5])
  expected = rate_bound_taylor(process, np.eye(K)[0], x_hat, 2, float(t))
  got = losses.bound(
    process,
    jax.nn.one_hot(jnp.array([0]), K),
    jnp.log(x_hat)[None],
    jnp.array([2]),
    jnp.array([t]),
  )
  np.testing.assert_allclose(got[0], expected, rtol=1e-2)


def rate_bound_taylor(process, x, x_hat, i, t):
  """Leading order in alpha: sum over j of (r_j - r_hat_j)^2 / 2 r_j."""
  a = enumeration.alpha(process.schedule, t)
  slope = enumeration.alpha_prime(process.schedule, t, h=1e-9) if a == 1 - t else None
  slope = -np.pi / 2 * np.cos(np.pi / 2 * t) if slope is None else slope
  d = a * K * ((x_hat - x_hat[i]) - (x - x[i]))
  rates = -slope / a / K * np.ones(K)
  return (rates * d**2 / 2)[np.arange(K) != i].sum()


def test_times_cover_the_interval_evenly():
  t = np.sort(losses.sample_times(jax.random.key(0), 64))
  np.testing.assert_allclose(np.diff(t), 1 / 64, atol=1e-6)
  grid = losses.sample_times(jax.random.key(1), 64, num_timesteps=8)
  values, counts = np.unique(np.round(np.asarray(grid) * 8), return_counts=True)
  assert values.tolist() == list(range(1, 9)) and counts.min() >= 7
  assert (t >= 0).all() and (t < 1).all() and t[0] > 0
  assert np.abs(t - np.sort(losses.sample_times(jax.random.key(2), 64))).min() > 1e-5


def test_independent_times_are_uniform_and_not_even():
  t = np.sort(losses.independent_times(jax.random.key(0), 4096))
  assert t.shape == (4096,)
  # Kolmogorov's distance to the uniform law, far less for times that cover the interval evenly.
  distance = np.abs(t - (np.arange(4096) + 0.5) / 4096).max()
  assert 0.2 < distance * np.sqrt(4096) < 1.9


def test_plain_losses_by_hand():
  process = processes.Masked(3)
  target = jnp.array([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
  log_x_hat = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]))
  masked, t = jnp.array([3, 3]), jnp.array([0.5, 0.25])
  found = losses.cross_entropy(process, target, log_x_hat, masked, t)
  by_hand = [np.log(4.0), -0.7 * np.log(0.1) - 0.3 * np.log(0.8)]
  np.testing.assert_allclose(found, by_hand, rtol=1e-6)
  found = losses.squared_error(process, target, log_x_hat, masked, t)
  np.testing.assert_allclose(found, [0.875, 0.01 + 0.25 + 0.16], rtol=1e-5)
  found = losses.bound(process, target, log_x_hat, masked, t)
  np.testing.assert_allclose(found, np.array(by_hand) / [0.5, 0.25], rtol=1e-6)
  for loss in (losses.cross_entropy, losses.squared_error, losses.bound):
    assert loss(process, target, log_x_hat, jnp.array([1, 0]), t).tolist() == [0.0, 0.0]
    every = loss(processes.Uniform(3), target, log_x_hat, jnp.array([1, 0]), t)
    assert every.shape == (2,) and every.dtype == jnp.float32 and (every > 0).all()


def test_weights():
  t = jnp.array([0.0, 0.25, 1.0])
  np.testing.assert_allclose(losses.elbo_weight(processes.Masked(3), t), [0.0, 4.0, 1.0])
  polynomial = processes.Masked(3, schedules.Polynomial(3.0))
  np.testing.assert_allclose(losses.elbo_weight(polynomial, t), [0.0, 12.0, 3.0], rtol=1e-6)
  assert losses.constant_weight(polynomial, t).tolist() == [1.0, 1.0, 1.0]


def test_bound_of_nearly_equal_rates_is_exact():
  """Where x_hat is near x, r log(r/r') - r + r' is a power series, to the last of its terms."""
  process, t = processes.Uniform(K), 0.5
  x = np.array([0.2, 0.3, 0.5])
  for change in (8e-3, -8e-3, 2e-2):
    x_hat = x + np.array([change / 2, 0.0, -change / 2])
    q, q_hat = 0.5 * x + 0.5 / K, 0.5 * x_hat + 0.5 / K
    d = np.log(q_hat / q) - np.log(q_hat / q)[1]
    expected = (2.0 / K * q / q[1] * (np.expm1(d) - d)).sum()
    with jax.enable_x64(True):
      found = losses.bound(process, x[None], jnp.log(x_hat)[None], jnp.array([1]), jnp.array([t]))
    np.testing.assert_allclose(found[0], expected, rtol=1e-7)


@pytest.mark.parametrize("process", enumeration.make_processes(K, schedules.Linear())[1:])
@pytest.mark.parametrize("step", [1, 2])
def test_discrete_bound_where_a_prediction_underflows(process, step):
  """exp(-200) is 0 in float32; its logarithm, and the gradient, are not lost."""
  log_x_hat = np.array([-200.0, np.log(0.4), np.log(0.6)])
  num_timesteps = 4
  s, t = (step - 1) / num_timesteps, step / num_timesteps
  pi = enumeration.stationary(process)
  for z, x in np.ndindex(K, K):
    q = enumeration.posterior(process, z, np.eye(K)[x], s, t)
    p = (s > 0) * s * pi + (1 - s) * np.exp(log_x_hat)
    p *= enumeration.transition(process, s, t)[:, z]
    kl = (q[q > 0] * np.log(q[q > 0] / (p / p.sum())[q > 0])).sum()

    def total(logits, z=z, x=x):
      return losses.discrete_bound(
        process,
        jax.nn.one_hot(jnp.array([x]), K),
        jax.nn.log_softmax(logits)[None],
        jnp.array([z]),
        jnp.array([t]),
        num_timesteps,
      )[0]

    value, grad = jax.value_and_grad(total)(jnp.asarray(log_x_hat, jnp.float32))
    np.testing.assert_allclose(value, num_timesteps * kl, rtol=1e-4, atol=1e-5)
    # d KL / d log x_hat_j is the posterior share of x_hat_j in p less that in q.
    share = (1 - s) * np.exp(log_x_hat) / ((s > 0) * s * pi + (1 - s) * np.exp(log_x_hat))
    at_t = (1 - t) * np.exp(log_x_hat[z]) / (t * pi[z] + (1 - t) * np.exp(log_x_hat[z]))
    by_log = -q * share + at_t * np.eye(K)[z]
    expected = num_timesteps * (by_log - np.exp(log_x_hat) * by_log.sum())
    np.testing.assert_allclose(grad, expected, rtol=1e-4, atol=1e-5)


def test_discrete_bound_of_a_long_chain_has_its_digits():
  """A thousand times a sum that nearly cancels."""
  process, num_timesteps, size = processes.Uniform(27), 1000, 27
  x_hat = np.random.default_rng(0).dirichlet(np.ones(size))
  for step in (2, 100, 500, 999):
    t, s = (float(np.float32(i / num_timesteps)) for i in (step, step - 1))
    for z, x in ((0, 0), (0, 3)):
      q, p = (enumeration.posterior(process, z, v, s, t) for v in (np.eye(size)[x], x_hat))
      expected = num_timesteps * (q * np.log(q / p)).sum()
      args = jnp.eye(size)[x : x + 1], jnp.log(x_hat)[None], jnp.array([z]), jnp.array([t])
      found = losses.discrete_bound(process, *args, num_timesteps)[0]
      np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_discrete_bound_can_be_differentiated_in_the_target():
  process, t = processes.Uniform(K), jnp.array([0.25])
  grad = jax.grad(
    lambda x: losses.discrete_bound(
      process, x, jnp.log(jnp.full((1, K), 1 / K)), jnp.array([0]), t, 4
    ).sum()
  )(jnp.array([[0.0, 1.0, 0.0]]))
  assert jnp.isfinite(grad).all()


def test_the_last_step_of_a_chain_ends_at_0_though_its_time_is_rounded():
  process = processes.Masked(3)
  z, target = jnp.array([[3]]), jax.nn.one_hot(jnp.array([[1]]), 3)
  log_x_hat = jnp.log(jnp.array([[[0.2, 0.3, 0.5]]]))
  for rounded in (0.1, 0.13):  # what is over is not left masked
    t = jnp.array([rounded])
    found = losses.discrete_bound(process, target, log_x_hat, z, t, 10)
    np.testing.assert_allclose(found, [[-10 * np.log(0.3)]], rtol=1e-5)
