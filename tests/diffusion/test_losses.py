import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import losses, processes, schedules
from tests import enumeration

K, D = 3, 2
STEPS = 4  # of the discrete bound
SIZE = (K + 1) ** D * K**D * D  # positions of the largest case
each_process = pytest.mark.parametrize("process", enumeration.ALL_PROCESSES, ids=enumeration.name)


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(process, target, logits, z, t):
  def evaluate(loss, *more):
    def of_logits(target, logits):
      return loss(process, target, jax.nn.log_softmax(logits), z, t, *more)

    values, gradients = jax.vjp(of_logits, target, logits)
    return values, *gradients(jnp.ones_like(values))

  three = losses.bound, losses.cross_entropy, losses.squared_error
  found = {loss.__name__: evaluate(loss) for loss in three}
  return found | {"discrete_bound": evaluate(losses.discrete_bound, STEPS)}


def evaluate(process, target, log_x_hat, z, t):
  """Values `[n]` of every loss at `n` positions, and gradients in `target` and in logits.

  One program for each process, as cases of any number of positions are filled up to `SIZE`.
  """
  arrays = (np.resize(a, (SIZE, *np.shape(a)[1:])) for a in (target, log_x_hat, z, t))
  return jax.tree.map(lambda a: np.asarray(a)[: len(z)], _evaluate(process, *arrays))


def values(name, process, x, x_hat, z, t):
  """Of one loss, for tokens `x` `[n]` and predictions `[n, K]`, all at one time or at `[n]`."""
  return evaluate(process, np.eye(K)[x], np.log(x_hat), z, np.broadcast_to(t, len(z)))[name][0]


def possible_pairs(process, t):
  """Every `(z_t, x)`, `[n]` each, that can come together."""
  z, x = np.nonzero(enumeration.transition(process, 0.0, t)[:K].T)
  return z, x


def kl(q, p):
  return np.where(q > 0, q * np.log(np.where(q > 0, q, 1) / np.where(p > 0, p, 1)), 0).sum()


def trained_meaning(process, joint, z, t):
  """What a network trained with the bound predicts."""
  mean, left_out = enumeration.predictions(process, joint, z, t)
  return mean if isinstance(process, processes.Masked) else left_out


@each_process
@pytest.mark.parametrize("t", [0.05, 0.4, 0.95])
def test_bound_equals_its_formula(process, t):
  z, x = possible_pairs(process, t)
  x_hat = np.random.default_rng(0).dirichlet(np.ones(K), len(z))
  found = values("bound", process, x, x_hat, z, t)
  expected = [
    enumeration.rate_bound(process, np.eye(K)[x[i]], x_hat[i], z[i], t) for i in range(len(z))
  ]
  np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-5)


def test_uniform_bound_equals_the_form_of_udlm_and_duo():
  process, t, rng = processes.Uniform(K), 0.6, np.random.default_rng(0)
  x_hat = rng.dirichlet(np.ones(K))
  x, i, a = np.eye(K)[1], 2, 1 - t
  bar, bar_hat = K * a * x + 1 - a, K * a * x_hat + 1 - a
  logs = np.log(bar_hat[i] * bar / (bar_hat * bar[i]))
  duo = -1 / (K * a) * (K / bar[i] - K / bar_hat[i] - (bar / bar[i] * logs).sum())
  np.testing.assert_allclose(values("bound", process, [1], x_hat[None], [i], t), duo, rtol=1e-5)


@each_process
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_bound_is_the_limit_of_the_discrete_kl(process, t):
  """Against float64 KL divergences of ever smaller steps."""
  x_hat, step = np.random.default_rng(1).dirichlet(np.ones(K)), 1e-5
  z, x = possible_pairs(process, t)
  found = values("bound", process, x, np.tile(x_hat, (len(z), 1)), z, t)
  posterior = lambda z, x: enumeration.posterior(process, z, x, t - step, t)
  expected = [
    kl(posterior(z, np.eye(K)[x]), posterior(z, x_hat)) / step for z, x in zip(z, x, strict=True)
  ]
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


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
    x_hat = np.maximum(np.repeat(np.nan_to_num(prediction), len(x), 0), 1e-30)
    of_positions = values(
      "bound", process, x_all.reshape(-1), x_hat.reshape(-1, K), z_all.reshape(-1), t
    )
    of_pairs = of_positions.astype(np.float64).reshape(*prob.shape, D).sum(-1)
    total += weight * (prob * np.where(prob > 0, of_pairs, 0)).sum()
  np.testing.assert_allclose(total, -(joint * np.log(joint)).sum(), rtol=1e-3)


@each_process
def test_discrete_bound_equals_enumeration(process):
  x_hat = np.random.default_rng(2).dirichlet(np.ones(K))
  for i in range(1, STEPS + 1):
    t, s = i / STEPS, (i - 1) / STEPS
    z, x = possible_pairs(process, t)
    found = values("discrete_bound", process, x, np.tile(x_hat, (len(z), 1)), z, t)
    t = min(t, 1 - 1e-12)
    posterior = lambda z, x, s=s, t=t: enumeration.posterior(process, z, x, s, t)
    expected = [
      STEPS * kl(posterior(z, np.eye(K)[x]), posterior(z, x_hat)) for z, x in zip(z, x, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@each_process
def test_losses_and_gradients_are_finite_at_degenerate_times(process):
  times = [0.0, 1e-7, 1e-4, 1 - 1e-4, 1 - 1e-7, 1.0]
  z, x, t = (
    a.reshape(-1) for a in np.meshgrid(range(process.num_states), range(K), times, indexing="ij")
  )
  logits = np.random.default_rng(0).normal(size=(len(z), K))
  found = evaluate(process, np.eye(K)[x], logits, z, t)
  for name in ("bound", "cross_entropy", "squared_error"):
    value, _, gradient = found[name]
    assert np.isfinite(value).all() and np.isfinite(gradient).all(), name


@pytest.mark.parametrize("schedule", [schedules.Linear(), schedules.Cosine()], ids=repr)
def test_uniform_bound_is_accurate_close_to_pure_noise(schedule):
  """Rates of 1/alpha times a difference of order alpha^2: the naive formula drowns in rounding."""
  process, t = processes.Uniform(K, schedule), np.float32(1 - 1e-5)
  x_hat = np.array([0.2, 0.3, 0.5])
  expected = rate_bound_taylor(process, np.eye(K)[0], x_hat, 2, float(t))
  found = values("bound", process, [0], x_hat[None], [2], t)
  np.testing.assert_allclose(found[0], expected, rtol=1e-2)


def rate_bound_taylor(process, x, x_hat, i, t):
  """Leading order in alpha: sum over j of (r_j - r_hat_j)^2 / 2 r_j."""
  a = enumeration.alpha(process.schedule, t)
  slope = enumeration.alpha_prime(process.schedule, t, h=1e-9) if a == 1 - t else None
  slope = -np.pi / 2 * np.cos(np.pi / 2 * t) if slope is None else slope
  d = a * K * ((x_hat - x_hat[i]) - (x - x[i]))
  rates = -slope / a / K * np.ones(K)
  return (rates * d**2 / 2)[np.arange(K) != i].sum()


def test_times_cover_the_interval_evenly():
  draw = jax.jit(losses.sample_times, static_argnums=(1, 2))
  t = np.sort(draw(jax.random.key(0), 64))
  np.testing.assert_allclose(np.diff(t), 1 / 64, atol=1e-6)
  grid = draw(jax.random.key(1), 64, 8)
  values, counts = np.unique(np.round(np.asarray(grid) * 8), return_counts=True)
  assert values.tolist() == list(range(1, 9)) and counts.min() >= 7
  assert (t >= 0).all() and (t < 1).all() and t[0] > 0
  assert np.abs(t - np.sort(draw(jax.random.key(2), 64))).min() > 1e-5


def test_independent_times_are_uniform_and_not_even():
  t = np.sort(losses.independent_times(jax.random.key(0), 4096))
  assert t.shape == (4096,)
  # Kolmogorov's distance to the uniform law, far less for times that cover the interval evenly.
  distance = np.abs(t - (np.arange(4096) + 0.5) / 4096).max()
  assert 0.2 < distance * np.sqrt(4096) < 1.9


def test_plain_losses_by_hand():
  process, t = processes.Masked(3), [0.5, 0.25]
  target = np.array([[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
  log_x_hat = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
  found = evaluate(process, target, log_x_hat, [3, 3], t)
  by_hand = [np.log(4.0), -0.7 * np.log(0.1) - 0.3 * np.log(0.8)]
  np.testing.assert_allclose(found["cross_entropy"][0], by_hand, rtol=1e-6)
  np.testing.assert_allclose(found["squared_error"][0], [0.875, 0.01 + 0.25 + 0.16], rtol=1e-5)
  np.testing.assert_allclose(found["bound"][0], np.array(by_hand) / t, rtol=1e-6)
  seen = evaluate(process, target, log_x_hat, [1, 0], t)
  every = evaluate(processes.Uniform(3), target, log_x_hat, [1, 0], t)
  for name in ("cross_entropy", "squared_error", "bound"):
    assert seen[name][0].tolist() == [0.0, 0.0]
    value = every[name][0]
    assert value.shape == (2,) and value.dtype == np.float32 and (value > 0).all()


def test_weights():
  t = np.array([0.0, 0.25, 1.0])
  elbo_weight = jax.jit(losses.elbo_weight, static_argnums=0)
  np.testing.assert_allclose(elbo_weight(processes.Masked(3), t), [0.0, 4.0, 1.0])
  polynomial = processes.Masked(3, schedules.Polynomial(3.0))
  np.testing.assert_allclose(elbo_weight(polynomial, t), [0.0, 12.0, 3.0], rtol=1e-6)
  assert losses.constant_weight(polynomial, t).tolist() == [1.0, 1.0, 1.0]


def test_bound_of_nearly_equal_rates_is_exact():
  """Where x_hat is near x, r log(r/r') - r + r' is a power series, to the last of its terms."""
  process, x = processes.Uniform(K), np.array([0.2, 0.3, 0.5])
  x_hats = x + np.multiply.outer([8e-3, -8e-3, 2e-2], [0.5, 0.0, -0.5])
  q, q_hat = 0.5 * x + 0.5 / K, 0.5 * x_hats + 0.5 / K
  d = np.log(q_hat / q) - np.log(q_hat / q)[:, 1:2]
  expected = (2.0 / K * q / q[1] * (np.expm1(d) - d)).sum(-1)
  bound = jax.jit(losses.bound, static_argnums=0)
  with jax.enable_x64(True):
    found = bound(process, np.tile(x, (3, 1)), np.log(x_hats), np.full(3, 1), np.full(3, 0.5))
  np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("process", enumeration.make_processes(K, schedules.Linear())[1:])
@pytest.mark.parametrize("step", [1, 2])
def test_discrete_bound_where_a_prediction_underflows(process, step):
  """exp(-200) is 0 in float32; its logarithm, and the gradient, are not lost."""
  log_x_hat = np.array([-200.0, np.log(0.4), np.log(0.6)])
  s, t = (step - 1) / STEPS, step / STEPS
  pi = enumeration.stationary(process)
  pairs = np.stack(np.indices((K, K)), -1).reshape(-1, 2)
  every = evaluate(
    process,
    np.eye(K)[pairs[:, 1]],
    np.tile(log_x_hat, (K * K, 1)),
    pairs[:, 0],
    np.full(K * K, t),
  )
  for (z, x), value, _, gradient in zip(pairs, *every["discrete_bound"], strict=True):
    q = enumeration.posterior(process, z, np.eye(K)[x], s, t)
    p = (s > 0) * s * pi + (1 - s) * np.exp(log_x_hat)
    p *= enumeration.transition(process, s, t)[:, z]
    expected = STEPS * (q[q > 0] * np.log(q[q > 0] / (p / p.sum())[q > 0])).sum()
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)
    # d KL / d log x_hat_j is the posterior share of x_hat_j in p less that in q.
    share = (1 - s) * np.exp(log_x_hat) / ((s > 0) * s * pi + (1 - s) * np.exp(log_x_hat))
    at_t = (1 - t) * np.exp(log_x_hat[z]) / (t * pi[z] + (1 - t) * np.exp(log_x_hat[z]))
    by_log = -q * share + at_t * np.eye(K)[z]
    expected = STEPS * (by_log - np.exp(log_x_hat) * by_log.sum())
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


discrete_bound = jax.jit(losses.discrete_bound, static_argnums=(0, 5))


def test_discrete_bound_of_a_long_chain_has_its_digits():
  """A thousand times a sum that nearly cancels."""
  process, num_timesteps, size = processes.Uniform(27), 1000, 27
  x_hat = np.random.default_rng(0).dirichlet(np.ones(size))
  steps, x = np.repeat([2, 100, 500, 999], 2), np.array([0, 3] * 4)
  z, log_x_hat = np.zeros(8, int), np.tile(np.log(x_hat), (8, 1))
  t, s = (np.float32(steps / num_timesteps), np.float32((steps - 1) / num_timesteps))
  found = discrete_bound(process, np.eye(size)[x], log_x_hat, z, t, num_timesteps)
  for i in range(8):
    q, p = (
      enumeration.posterior(process, 0, v, float(s[i]), float(t[i]))
      for v in (np.eye(size)[x[i]], x_hat)
    )
    expected = num_timesteps * (q * np.log(q / p)).sum()
    np.testing.assert_allclose(found[i], expected, rtol=2e-4)


def test_discrete_bound_can_be_differentiated_in_the_target():
  target, even = np.eye(K)[1:2], np.full((1, K), np.log(1 / K))
  _, gradient, _ = evaluate(processes.Uniform(K), target, even, [0], [0.25])["discrete_bound"]
  assert np.isfinite(gradient).all() and gradient.any()


def test_the_last_step_of_a_chain_ends_at_0_though_its_time_is_rounded():
  t = np.array([0.1, 0.13])  # what is over is not left masked
  z, target = np.array([[3], [3]]), np.eye(3)[[[1], [1]]]
  log_x_hat = np.log([[[0.2, 0.3, 0.5]]] * 2)
  found = discrete_bound(processes.Masked(3), target, log_x_hat, z, t, 10)
  np.testing.assert_allclose(found, [[-10 * np.log(0.3)]] * 2, rtol=1e-5)


@pytest.mark.parametrize(
  "process",
  [processes.Uniform(K), processes.Marginal(K, probs=(0.5, 0.2, 0.3))],
  ids=["uniform", "marginal"],
)
def test_categories_that_never_occur_change_no_loss(process):
  """Nor a gradient, nor what `leave_one_out` predictions mean."""
  rng = np.random.default_rng(0)
  n, unused = 200, 2
  wide = dataclasses.replace(process, num_categories=K + unused, num_unused=unused)
  x, z, t = rng.integers(0, K, n), rng.integers(0, K, n), rng.uniform(0, 1, n)
  logits = rng.normal(size=(n, K))
  added = np.pad(logits, ((0, 0), (0, unused)), constant_values=-1e9)  # as networks have them
  expected = _evaluate(process, np.eye(K)[x], logits, z, t)
  found = _evaluate(wide, np.eye(K + unused)[x], added, z, t)
  for name, (values, in_target, in_logits) in expected.items():
    np.testing.assert_allclose(found[name][0], values, rtol=1e-5, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(found[name][2][:, :K], in_logits, rtol=1e-4, atol=1e-5)
    assert not np.any(found[name][2][:, K:]) and np.isfinite(found[name][1]).all()
    np.testing.assert_allclose(found[name][1][:, :K], in_target, rtol=1e-4, atol=1e-5)
  mean = wide.to_mean(jax.nn.log_softmax(added), z, t)
  np.testing.assert_allclose(
    jnp.exp(mean)[:, :K], jnp.exp(process.to_mean(jax.nn.log_softmax(logits), z, t)), rtol=1e-5
  )
