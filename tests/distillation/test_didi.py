"""DiDi-Instruct beside NumPy, and beside enumeration of every path of two steps."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_didi
from dmmd_jax import config as checks
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.distillation import didi, parts
from tests import enumeration
from tests.distillation.lookups import Spy, run

K, D, T = 3, 2, 0.6
MASKED = processes.Masked(K, schedules.Cosine())
KEY = jax.random.key(3)


def make_method(**settings):
  spies = Spy(), Spy(), Spy()
  p = parts.Parts(MASKED, *spies, "mean", K, 1, 8, False, 1.0, 1.0, 2.0, None, None)
  return didi.DiDi(p, didi.DiDiSettings(**settings))


def softmax(logits):
  p = np.exp(np.asarray(logits, np.float64))
  return p / p.sum(-1, keepdims=True)


def chosen(p, x):
  return np.take_along_axis(p, x[..., None], -1)[..., 0]


def test_losses_of_a_step_are_those_written_out(monkeypatch):
  """Two steps of the student, groups of one tau, a logistic loss on samples and data masked anew,
  rewards normalised by group, weighed by tau, and gradients of each loss in its model alone."""
  size, length, groups = 3, 6, 4
  rng = np.random.default_rng(2)
  drawn = rng.integers(0, K, (2, size * groups, length))
  calls = itertools.count()
  monkeypatch.setattr(didi, "draw", lambda log_p, u: jnp.asarray(drawn[next(calls)]))
  logits = rng.normal(size=(3, K + 1, K)).astype(np.float32)
  tokens = rng.integers(0, K, (groups, length))
  batch = Batch(jnp.asarray(tokens), None)
  method = make_method(group_size=size, kl_weight=0.3, entropy_weight=0.2, weight="elbo")
  p = method.parts
  of_models = lambda eta, phi: method.losses(eta, phi, logits[2], batch, KEY)
  (loss, discriminator), metrics, gradients = run(
    of_models, [p.student, p.auxiliary, p.teacher], *logits[:2]
  )
  (z_1, t_1, _), (z_tau, tau, _) = p.student.asked
  assert all(noisy for *_, noisy in p.student.asked)
  assert (z_1 == K).all() and (t_1 == 1).all()
  assert (tau.reshape(groups, size) == tau[::size, None]).all() and len({*tau}) == groups
  masked = z_tau == K
  np.testing.assert_array_equal(z_tau[~masked], drawn[0][~masked])
  x = np.where(masked, drawn[1], z_tau)
  for spied, (z, t) in zip(p.teacher.asked, [(z_1, t_1), (z_tau, tau)], strict=True):
    np.testing.assert_array_equal(spied[0], z)
    np.testing.assert_array_equal(spied[1], t)

  (fakes, t, _), _, (data, t_data, _), _ = p.auxiliary.asked
  np.testing.assert_array_equal(t, tau)
  np.testing.assert_array_equal(t_data, tau[::size])
  np.testing.assert_array_equal(fakes[fakes != K], x[fakes != K])
  np.testing.assert_array_equal(data[data != K], tokens[data != K])
  assert (fakes != z_tau).any()
  phi, theta = softmax(logits)[1:]
  ratio = lambda z, x: np.log(chosen(phi[z], x) / chosen(theta[z], x)) * (z == K)
  of_fakes, of_data = ratio(fakes, x), ratio(data, tokens)
  expected = (np.log1p(np.exp(-of_fakes)) * (fakes == K)).mean()
  expected += (np.log1p(np.exp(of_data)) * (data == K)).mean()
  np.testing.assert_allclose(discriminator, expected, rtol=1e-5)

  reward = of_fakes.sum(1) / np.maximum((fakes == K).sum(1), 1)
  np.testing.assert_allclose(metrics["log_ratio"], reward.mean(), rtol=1e-4)
  grouped = reward.reshape(groups, size)
  advantage = (grouped - grouped.mean(1, keepdims=True)) / (grouped.std(1, keepdims=True) + 1e-4)
  t = tau.astype(np.float64)
  slope = enumeration.alpha_prime(MASKED.schedule, t)
  advantage = advantage * (-slope / (1 - enumeration.alpha(MASKED.schedule, t))).reshape(-1, size)

  def student_loss(table):
    p = softmax(table)
    log_p = np.where(masked, np.log(chosen(p[z_tau], x)), np.log(chosen(p[z_1], x)))
    policy = (advantage.reshape(-1, 1) * log_p).mean()
    kl = (theta * np.log(theta / p)).sum(-1)
    entropy = -(p * np.log(p)).sum(-1)
    kl, entropy = ((a[z_1] + a[z_tau] * masked).mean() for a in (kl, entropy))
    return policy + 0.3 * kl - 0.2 * entropy

  np.testing.assert_allclose(loss, student_loss(logits[0]), rtol=1e-4, atol=1e-6)

  (found, none), (nothing, of_phi) = gradients
  assert (none == 0).all() and (nothing == 0).all() and (of_phi != 0).any()
  for place in np.ndindex(found.shape):
    step = np.zeros(found.shape)
    step[place] = 1e-5
    own = logits[0].astype(np.float64)
    slope = (student_loss(own + step) - student_loss(own - step)) / 2e-5
    np.testing.assert_allclose(found[place], slope, rtol=1e-3, atol=1e-5)


def test_the_policy_gradient_is_that_of_the_mean_reward():
  """Of all paths of two steps, with a reward for every sequence."""
  rng = np.random.default_rng(1)
  x, z = enumeration.sequences(K, D), enumeration.sequences(K + 1, D)
  rewards = rng.normal(size=len(x))
  logits = rng.normal(size=(len(z) + 1, D, K))  # at 1, and at each z_tau
  stay = 1 - enumeration.alpha(MASKED.schedule, T)
  paths = [
    (i, j)
    for i, j in np.ndindex(len(z), len(x))
    if ((z[i] == K) | (z[i] == x[j])).all()
  ]  # fmt: skip

  def probabilities(logits):
    p = softmax(logits)
    found = []
    for i, j in paths:
      of_token = [
        stay * p[1 + i, d, x[j, d]] if z[i, d] == K else (1 - stay) * p[0, d, x[j, d]]
        for d in range(D)
      ]
      found.append(np.prod(of_token))
    return np.array(found)

  probs = probabilities(logits)
  np.testing.assert_allclose(probs.sum(), 1.0)
  at_z, at_x = map(np.array, zip(*paths, strict=True))
  method = make_method(kl_weight=0.0, entropy_weight=0.0)

  def policy(logits):
    log_p = jax.nn.log_softmax(logits)
    first = jnp.broadcast_to(log_p[0], (len(paths), D, K))
    second = log_p[1 + at_z]
    advantage = jnp.asarray(probs * rewards[at_x])
    (loss,), _ = method._loss_of_position(
      first, second, first, second, jnp.asarray(x[at_x]), z[at_z], advantage
    )
    return loss.sum()

  with jax.enable_x64(True):
    found = jax.jit(jax.grad(policy))(logits)
  expected, h = np.zeros(logits.shape), 1e-6
  for place in np.ndindex(logits.shape):
    step = np.zeros(logits.shape)
    step[place] = h
    change = probabilities(logits + step) - probabilities(logits - step)
    expected[place] = (change * rewards[at_x]).sum() / (2 * h)
  assert np.abs(expected).max() > 1e-2
  np.testing.assert_allclose(found, expected, atol=1e-7)


def test_a_path_reveals_at_tau_as_much_as_the_process():
  method = make_method(group_size=2)
  table = np.random.default_rng(0).normal(size=(K + 1, K))
  batch = Batch(np.zeros((100, 40), int), None)
  path = jax.jit(lambda table, key: method.draw_path(table, batch, jnp.full(200, T), key))(
    table, KEY
  )
  masked = np.asarray(path.z_tau) == K
  expected = 1 - enumeration.alpha(MASKED.schedule, T)
  assert abs(masked.mean() - expected) < 5 * 0.5 / np.sqrt(8000)
  assert (np.asarray(path.x) < K).all()
  # What is unmasked when has nothing to do with what it is.
  for tokens in (np.asarray(path.x)[masked], np.asarray(path.z_tau)[~masked]):
    shares = np.bincount(tokens, minlength=K) / len(tokens)
    assert np.abs(shares - softmax(table)[K]).max() < 5 * 0.5 / np.sqrt(len(tokens))


def test_rewards_that_are_equal_but_for_rounding_are_no_reason_to_move():
  rewards = np.array([1e-7, -1e-7, 0.0, 0.0, 3.0, 1.0, 1.0, 3.0])
  found = np.asarray(jax.jit(didi.normalise, static_argnums=1)(rewards, 4))
  assert np.abs(found[:4]).max() < 0.01
  np.testing.assert_allclose(found[4:], [1, -1, -1, 1], rtol=1e-3)


@jax.jit
def discriminator_gradient(fakes, data, log_phi, log_theta, step):
  """Largest part of the expected gradient in `log_phi` `[z, D, K]`, of two joint laws.

  They are those of samples and data; `step` `[z, x]` is what masks tokens.
  """
  x, z = enumeration.sequences(K, D), enumeration.sequences(K + 1, D)
  i, j = (a.reshape(-1) for a in np.indices((len(z), len(x))))
  masked = z[i] == K

  class Table(Spy):
    def log_mean(self, params, z_t, t, key=None):
      return params[i]

  method = didi.DiDi(
    parts.Parts(MASKED, None, None, Table(), "mean", K, 1, 8, False, 1.0, 1.0, 2.0, None, None)
  )

  def loss(logits):
    ratios = method.log_ratios(
      jax.nn.log_softmax(logits), log_theta, None, z[i], None, jnp.asarray(x[j])
    )
    of_fakes, of_data = jax.nn.softplus(-ratios), jax.nn.softplus(ratios)
    weighted = [
      (step * law)[i, j][:, None] * masked * of
      for law, of in ((fakes, of_fakes), (data, of_data))
    ]  # fmt: skip
    return sum(w.sum() for w in weighted)

  return jnp.abs(jax.grad(loss)(log_phi)).max()


def test_where_the_discriminator_rests():
  """At the teacher where samples have the law of the data; where all is masked at the logarithm of
  the ratio of what samples and data are."""
  rng = np.random.default_rng(0)
  data, fakes = rng.dirichlet(np.ones(K**D), 2)
  x, z = enumeration.sequences(K, D), enumeration.sequences(K + 1, D)
  log_theta, other = np.log(rng.dirichlet(np.ones(K), (2, len(z), D)))
  means = [enumeration.predictions(MASKED, law, z, 1 - 1e-6)[0] for law in (fakes, data)]
  log_fakes, log_data = (np.log(np.maximum(mean, 1e-30)) for mean in means)
  at_tau, at_1 = (enumeration.likelihood(MASKED, z, x, t).prod(-1) for t in (T, 1.0))
  with jax.enable_x64(True):
    assert discriminator_gradient(data, data, log_theta, log_theta, at_tau) < 1e-12
    assert discriminator_gradient(data, data, other, log_theta, at_tau) > 1e-3
    assert discriminator_gradient(fakes, data, log_theta, log_theta, at_tau) > 1e-3
    assert discriminator_gradient(fakes, data, log_fakes, log_data, at_1) < 1e-6
    assert discriminator_gradient(data, fakes, log_fakes, log_data, at_1) > 1e-3


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"process.name": "uniform"}, "process.name is 'uniform'"),
    ({"network.block": 4}, "network.block is 4"),
    ({"network.dtype": "bfloat16"}, "network.dtype is 'bfloat16'; rewards are small"),
    ({"distill.teacher_dtype": "bfloat16"}, "distill.teacher_dtype is 'bfloat16'; rewards"),
    ({"distill.temperature": 0.9}, "distill.temperature, distill.top_p"),
    ({"distill.guidance": 1.0}, "distill.temperature, distill.top_p"),
  ],
)
def test_what_does_not_go_together_is_named(changes, message):
  config = digits_didi.get_config()
  assert not [*didi.DiDi.problems(config, (8, 8, 1))]
  config.update_from_flattened_dict(changes)
  (problem,) = didi.DiDi.problems(config, (8, 8, 1))
  assert message in problem and "\n" not in problem


def test_its_config_is_checked():
  checks.check(digits_didi.get_config())
