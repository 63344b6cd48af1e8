import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes
from dmmd_jax.distillation import dmmd, rollout
from dmmd_jax.positions import whole

K, D, B = 4, 6, 16
MASKED = dmmd.Objective(processes.Masked(K))
UNIFORM = dmmd.Objective(processes.Uniform(K), auxiliary_target="hard")
VARIANTS = [
  MASKED,
  UNIFORM,
  dataclasses.replace(MASKED, loss="bound"),
  dataclasses.replace(UNIFORM, loss="bound", prediction="leave_one_out"),
  dataclasses.replace(UNIFORM, prediction="leave_one_out", loss="bound", renoise="forward"),
  dataclasses.replace(MASKED, loss="squared_error", weight="elbo"),
  dataclasses.replace(MASKED, renoise="forward"),
  dataclasses.replace(MASKED, from_prior=True, steps=1),
  dataclasses.replace(MASKED, temperature=0.8, top_p=0.7),
]
each_variant = pytest.mark.parametrize("method", VARIANTS, ids=range(len(VARIANTS)))


def network(params, z, t, key=None):
  """A small function of everything that it should depend on."""
  table, mixing, slope = params
  h = table[z] + (table[z].mean(1, keepdims=True) @ mixing) + slope * t[:, None, None]
  if key is not None:
    h += 0.3 * jax.random.normal(key, h.shape)
  return jax.nn.log_softmax(h)


def make_params(seed):
  keys = jax.random.split(jax.random.key(seed), 3)
  shapes = [(K + 1, K), (K, K), (K,)]
  return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


ETA, PHI, THETA = (make_params(seed) for seed in range(3))
X = jax.random.randint(jax.random.key(9), (B, D), 0, K)
KEY = jax.random.key(10)


def teacher(z, t):
  return network(THETA, z, t)


NETWORKS = dmmd.Networks(teacher, network, network)


def losses(method, eta, phi, x, key):
  return dmmd.dmmd_losses(method, NETWORKS, phi, rollout.rollout(method, network, eta, x, key))


def largest(tree):
  return max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@each_variant
def test_each_loss_moves_its_own_network_only(method):
  def loss(eta, phi, which):
    return losses(method, eta, phi, X, KEY)[which]

  generator = jax.grad(loss, (0, 1))(ETA, PHI, 0)
  auxiliary = jax.grad(loss, (0, 1))(ETA, PHI, 1)
  assert largest(generator[0]) > 1e-4 and largest(generator[1]) == 0
  assert largest(auxiliary[0]) == 0 and largest(auxiliary[1]) > 1e-4
  for grads in (generator, auxiliary):
    assert all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))


@each_variant
def test_joint_gradients_are_those_of_the_two_losses(method):
  def loss(eta, phi, both):
    generator, auxiliary, _ = losses(method, eta, phi, X, KEY)
    return generator + auxiliary if both else generator

  joint, alone = (jax.grad(loss)(ETA, PHI, both) for both in (True, False))
  for a, b in zip(joint, alone, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


@each_variant
def test_student_at_rest_where_auxiliary_equals_teacher(method):
  """The fixed point: with equal predictions of both, the generator's gradient vanishes."""
  method = dataclasses.replace(method, temperature=1.0, top_p=1.0)
  grads = jax.grad(lambda eta: losses(method, eta, THETA, X, KEY)[0])(ETA)
  assert largest(grads) < 1e-6


def test_losses_are_equations_11_and_12():
  method = dataclasses.replace(MASKED, teacher_weight=0.7, weight="elbo")
  generator, auxiliary, _ = losses(method, ETA, PHI, X, KEY)
  r = rollout.rollout(method, network, ETA, X, KEY)
  log_theta, log_phi = teacher(r.z_s, r.s), network(PHI, r.z_s, r.s)
  p, theta = jnp.exp(whole(r.log_p)), jnp.exp(log_theta)
  m = (r.z_s == K)[..., None] / r.s[:, None, None]  # the masked positions and 1/s of `linear`
  expected = (m * p * (log_phi - log_theta)).sum() / (B * D)
  np.testing.assert_allclose(generator, expected, rtol=1e-4)
  expected = -(m * (p + 0.7 * theta) * log_phi).sum() / (B * D)
  np.testing.assert_allclose(auxiliary, expected, rtol=1e-4)


def test_squared_error_gives_twice_the_gradient_of_continuous_moment_matching():
  """arXiv 2406.04103: the loss there is p . stop_gradient(x_hat_phi - x_hat_theta)."""
  for method in (MASKED, UNIFORM):
    method = dataclasses.replace(method, loss="squared_error")

    def moment_matching(eta, method=method):
      r = rollout.rollout(method, network, eta, X, KEY)
      gap = jnp.exp(network(PHI, r.z_s, r.s)) - jnp.exp(teacher(r.z_s, r.s))
      counts = method.process.active(r.z_s)[..., None]
      return (counts * jnp.exp(whole(r.log_p)) * jax.lax.stop_gradient(gap)).sum() / (B * D)

    ours = jax.grad(lambda e, m=method: losses(m, e, PHI, X, KEY)[0])(ETA)
    for a, b in zip(ours, jax.grad(moment_matching)(ETA), strict=True):
      np.testing.assert_allclose(a, 2 * b, rtol=1e-4, atol=1e-7)


def test_soft_and_hard_auxiliary_targets_agree_in_expectation_when_masked():
  def mean_loss(target):
    method = dataclasses.replace(MASKED, auxiliary_target=target)

    def loss(key):
      x = jnp.tile(X, (64, 1))
      return losses(method, ETA, PHI, x, key)[1]

    values = jax.lax.map(jax.jit(loss), jax.random.split(KEY, 50))
    return values.mean(), values.std() / np.sqrt(50)

  (soft, soft_error), (hard, hard_error) = mean_loss("soft"), mean_loss("hard")
  assert soft_error < hard_error
  assert abs(soft - hard) < 4 * np.hypot(soft_error, hard_error)


def test_rollout_times_and_states():
  for method in VARIANTS:
    r = rollout.rollout(method, network, ETA, X, KEY)
    assert (r.s <= r.t).all() and (r.t <= 1).all()
    if method.from_prior:
      assert (r.t == 1).all()
    elif method.renoise == "posterior":
      assert (r.t - r.s <= 1 / method.steps + 1e-6).all()
    if method.process == MASKED.process and method.renoise == "posterior":
      seen = r.z_t != K
      assert (r.z_s[seen] == r.z_t[seen]).all()
    if method.process == MASKED.process and method.renoise == "forward":
      seen = r.z_t != K
      assert (r.x[seen] == r.z_t[seen]).all()  # visible tokens stay in the full sample


def test_the_teacher_is_distilled_as_it_would_be_sampled():
  """Lower temperature and top-p change the teacher only, and keep the losses finite."""
  plain = losses(MASKED, ETA, THETA, X, KEY)[0]
  cold = dataclasses.replace(MASKED, temperature=0.5, top_p=0.5)
  generator = losses(cold, ETA, THETA, X, KEY)[0]
  assert abs(float(plain)) < 1e-6 and jnp.isfinite(generator) and abs(float(generator)) > 1e-3


def test_more_noises_see_the_same_corrupted_data():
  r = rollout.rollout(MASKED, network, ETA, X, KEY, num_noises=3)
  assert r.z_t.shape == (3 * B, D)
  z_t, log_mean = (a.reshape(B, 3, *a.shape[1:]) for a in (r.z_t, whole(r.log_mean)))
  assert (z_t == z_t[:, :1]).all() and (r.t.reshape(B, 3) == r.t[::3, None]).all()
  assert jnp.abs(log_mean[:, 0] - log_mean[:, 1]).max() > 0.1
  # Each is corrupted from its own example.
  kept = ~MASKED.process.active(z_t[:, 0])
  assert kept.any() and (jnp.where(kept, z_t[:, 0], X) == X).all()


def test_defaults_are_the_papers():
  assert dmmd.Objective(MASKED.process) == dmmd.Objective(
    MASKED.process,
    steps=8,
    loss="cross_entropy",
    auxiliary_target="soft",
    teacher_weight=1.0,
    weight="constant",
    temperature=1.0,
    top_p=1.0,
    top_p_penalty=2.0,
    renoise="posterior",
    from_prior=False,
    prediction="mean",
    num_blocks=1,
    independent_times=False,
  )
  assert dmmd.Objective(MASKED.process) == MASKED


def test_times_and_states_of_a_corruption():
  x = jnp.zeros((4000, D), int)
  z_t, s, t = rollout.corrupt(dataclasses.replace(MASKED, steps=4), x, KEY)
  np.testing.assert_allclose(np.diff(np.sort(s)), 1 / 4000, atol=1e-6)
  inner = np.asarray(s) < 0.75
  steps = np.asarray(t - s)[inner]
  np.testing.assert_allclose([steps.mean(), steps.std()], [1 / 8, 0.25 / 12**0.5], atol=5e-3)
  assert 0 <= steps.min() < 1e-3 and 0.249 < steps.max() <= 0.2501
  assert t.max() == 1.0 and (t == 1.0).mean() > 0.05
  assert abs(np.corrcoef(steps, np.asarray(s)[inner])[0, 1]) < 0.1
  np.testing.assert_allclose((z_t == K).mean(1)[t == 1.0], 1.0)
  early = (z_t == K)[t < 0.3].mean()
  np.testing.assert_allclose(early, t[t < 0.3].mean(), atol=0.02)  # at t, not at s
  _, s, t = rollout.corrupt(dataclasses.replace(MASKED, independent_times=True), x, KEY)
  assert np.diff(np.sort(s)).std() > 1e-4 and (t >= s).all()


def test_blocks_have_times_of_their_own():
  method = dataclasses.replace(MASKED, num_blocks=2)
  z_t, s, t = rollout.corrupt(method, X, KEY)
  assert z_t.shape == s.shape == t.shape == (B, D)
  for times in (s, t):
    halves = times.reshape(B, 2, D // 2)
    assert (halves == halves[..., :1]).all()
  np.testing.assert_allclose(np.sort(s[:, :: D // 2].reshape(-1)) % (1 / 32), s.min(), atol=1e-6)


def test_metrics_are_means_over_what_is_masked():
  method = dataclasses.replace(MASKED, temperature=0.6, top_p=0.5, top_p_penalty=3.0)
  r = rollout.rollout(method, network, ETA, X, KEY)
  generator, auxiliary, metrics = dmmd.dmmd_losses(method, NETWORKS, PHI, r)
  p, at_t = np.exp(np.asarray(whole(r.log_mean), np.float64)), np.asarray(r.z_t == K)
  np.testing.assert_allclose(metrics["entropy"], -(p * np.log(p)).sum(-1)[at_t].mean(), rtol=1e-5)
  theta = np.exp(np.asarray(teacher(r.z_s, r.s), np.float64) / 0.6)
  theta /= theta.sum(-1, keepdims=True)
  best = theta == theta.max(-1, keepdims=True)
  order = np.sort(theta, -1)[..., ::-1].cumsum(-1)
  kept = theta >= np.take_along_axis(
    np.sort(theta, -1)[..., ::-1], (order < 0.5).sum(-1, keepdims=True), -1
  )
  assert (kept.sum(-1) > 1).any() and (best <= kept).all()
  theta *= np.where(kept, 1.0, np.exp(-3.0))
  theta /= theta.sum(-1, keepdims=True)
  log_phi = np.asarray(network(PHI, r.z_s, r.s), np.float64)
  gap = (theta * (np.log(theta) - log_phi)).sum(-1)
  at_s = np.asarray(r.z_s == K)
  np.testing.assert_allclose(metrics["teacher_auxiliary_gap"], gap[at_s].mean(), rtol=1e-4)
  expected = (at_s[..., None] * p * (log_phi - np.log(theta))).sum() / (B * D)
  np.testing.assert_allclose([generator, metrics["generator_loss"]], expected, rtol=1e-4)
  expected = -(at_s[..., None] * (p + theta) * log_phi).sum() / (B * D)
  np.testing.assert_allclose([auxiliary, metrics["auxiliary_loss"]], expected, rtol=1e-4)
  # Nothing masked: nothing to average.
  r = r._replace(z_t=X, z_s=X)
  assert all(
    float(value) == 0.0 for value in dmmd.dmmd_losses(method, NETWORKS, PHI, r)[2].values()
  )


def test_every_draw_of_a_rollout_moves_with_its_key():
  r, again = (rollout.rollout(UNIFORM, network, ETA, X, key) for key in jax.random.split(KEY))
  assert (r.s != again.s).all() and (r.x != again.x).any() and (r.z_s != again.z_s).any()
  assert r.x.dtype == jnp.int32
