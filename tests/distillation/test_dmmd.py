import dataclasses
import functools

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
  dataclasses.replace(UNIFORM, prediction="leave_one_out", loss="bound", renoise="forward"),
  dataclasses.replace(MASKED, loss="bound", renoise="forward"),
  dataclasses.replace(MASKED, loss="squared_error", from_prior=True, steps=1),
  dataclasses.replace(
    MASKED, temperature=0.6, top_p=0.5, top_p_penalty=3.0, teacher_weight=0.7, weight="elbo"
  ),
]
each_variant = pytest.mark.parametrize("method", VARIANTS, ids=range(len(VARIANTS)))


def network(params, z, t, key=None):
  """A small function of everything that it should depend on."""
  table, mixing, slope = map(jnp.asarray, params)
  h = table[z] + (table[z].mean(1, keepdims=True) @ mixing) + slope * t[:, None, None]
  if key is not None:
    h += 0.3 * jax.random.normal(key, h.shape)
  return jax.nn.log_softmax(h)


def make_params(seed):
  rng = np.random.default_rng(seed)
  return [rng.normal(size=shape).astype(np.float32) for shape in ((K + 1, K), (K, K), (K,))]


ETA, PHI, THETA = (make_params(seed) for seed in range(3))
X = np.random.default_rng(9).integers(0, K, (B, D))
KEY = jax.random.key(10)
predict = jax.jit(network)


def losses(method, eta, phi, theta, x, key):
  """Losses and metrics of a rollout, and the rollout."""
  r = materialised(rollout.rollout(method, network, eta, x, key))
  networks = dmmd.Networks(functools.partial(network, theta), network, network)
  *both, metrics = dmmd.dmmd_losses(method, networks, phi, r)
  return tuple(both), (metrics, r)


def materialised(r):
  return r._replace(log_p=whole(r.log_p), log_mean=whole(r.log_mean))


@functools.partial(jax.jit, static_argnums=0)
def evaluate(method, eta, phi, theta, key):
  """Both losses, metrics, the rollout, and of each loss the gradients in `eta` and `phi`."""
  of_models = lambda eta, phi: losses(method, eta, phi, theta, X, key)
  both, pullback, (metrics, r) = jax.vjp(of_models, eta, phi, has_aux=True)
  return both, metrics, r, (pullback((1.0, 0.0)), pullback((0.0, 1.0)))


def largest(tree):
  return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


@each_variant
def test_each_loss_moves_its_own_network_only(method):
  """So that the gradient of their sum, for a joint update, is that of each."""
  *_, (generator, auxiliary) = evaluate(method, ETA, PHI, THETA, KEY)
  assert largest(generator[0]) > 1e-4 and largest(generator[1]) == 0
  assert largest(auxiliary[0]) == 0 and largest(auxiliary[1]) > 1e-4
  for grads in (generator, auxiliary):
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


# One whose teacher is distilled colder than it is does not rest at it.
@pytest.mark.parametrize("method", VARIANTS[:-1], ids=range(len(VARIANTS) - 1))
def test_student_at_rest_where_auxiliary_equals_teacher(method):
  """The fixed point: with equal predictions of both, the generator's gradient vanishes."""
  *_, (generator, _) = evaluate(method, ETA, THETA, THETA, KEY)
  assert largest(generator[0]) < 1e-6


def test_squared_error_gives_twice_the_gradient_of_continuous_moment_matching():
  """arXiv 2406.04103: the loss there is p . stop_gradient(x_hat_phi - x_hat_theta)."""
  method = dataclasses.replace(MASKED, loss="squared_error")

  def moment_matching(eta):
    r = rollout.rollout(method, network, eta, X, KEY)
    gap = jnp.exp(network(PHI, r.z_s, r.s)) - jnp.exp(network(THETA, r.z_s, r.s))
    counts = method.process.active(r.z_s)[..., None]
    return (counts * jnp.exp(whole(r.log_p)) * jax.lax.stop_gradient(gap)).sum() / (B * D)

  def of_code(eta):
    return losses(method, eta, PHI, THETA, X, KEY)[0][0]

  ours, theirs = jax.jit(lambda eta: (jax.grad(of_code)(eta), jax.grad(moment_matching)(eta)))(ETA)
  for a, b in zip(ours, theirs, strict=True):
    np.testing.assert_allclose(a, 2 * b, rtol=1e-4, atol=1e-7)


@each_variant
def test_rollout_times_and_states(method):
  r = jax.tree.map(np.asarray, evaluate(method, ETA, PHI, THETA, KEY)[2])
  assert (r.s <= r.t).all() and (r.t <= 1).all()
  if method.from_prior:
    assert (r.t == 1).all()
  elif method.renoise == "posterior":
    assert (r.t - r.s <= 1 / method.steps + 1e-6).all()
  seen = r.z_t != K
  if method.process == MASKED.process and method.renoise == "posterior":
    assert (r.z_s[seen] == r.z_t[seen]).all()
  if method.process == MASKED.process and method.renoise == "forward":
    assert (r.x[seen] == r.z_t[seen]).all()  # visible tokens stay in the full sample


def test_the_teacher_is_distilled_as_it_would_be_sampled():
  """Lower temperature and top-p change the teacher only, and keep the losses finite."""
  (plain, _), *_ = evaluate(MASKED, ETA, THETA, THETA, KEY)
  (generator, _), *_ = evaluate(VARIANTS[-1], ETA, THETA, THETA, KEY)
  assert abs(float(plain)) < 1e-6 and np.isfinite(generator) and abs(float(generator)) > 1e-3


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_more_noises_see_the_same_corrupted_data(stride):
  """The first of every `stride` examples with three, the others with one."""
  noises = rollout.Noises(3, stride)
  draw = lambda key: materialised(rollout.rollout(MASKED, network, ETA, X, key, noises))
  r = jax.tree.map(np.asarray, jax.jit(draw)(KEY))
  rows = [i for i in range(B) for _ in range(1 if i % stride else 3)]
  begins = [rows.index(i) for i in range(B)]
  assert r.z_t.shape == (len(rows), D)
  assert (r.z_t == r.z_t[begins][rows]).all() and (r.t == r.t[begins][rows]).all()
  several = np.array([i % stride == 0 for i in rows])
  assert np.abs(np.diff(r.log_mean[several].reshape(-1, 3, D, K), axis=1)).max((2, 3)).min() > 0.1
  # Each is corrupted from its own example.
  kept = r.z_t != K
  assert kept.any() and (np.where(kept, r.z_t, X[np.array(rows)]) == X[np.array(rows)]).all()
  for found, chosen in ((noises.first(r), begins), (noises.several(r), several)):
    expected = rollout.Rollout(*(a[chosen] for a in r))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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


corrupt = jax.jit(rollout.corrupt, static_argnums=0)


def test_times_and_states_of_a_corruption():
  x = np.zeros((4000, D), int)
  z_t, s, t = map(np.asarray, corrupt(dataclasses.replace(MASKED, steps=4), x, KEY))
  np.testing.assert_allclose(np.diff(np.sort(s)), 1 / 4000, atol=1e-6)
  inner = s < 0.75
  steps = (t - s)[inner]
  np.testing.assert_allclose([steps.mean(), steps.std()], [1 / 8, 0.25 / 12**0.5], atol=5e-3)
  assert 0 <= steps.min() < 1e-3 and 0.249 < steps.max() <= 0.2501
  assert t.max() == 1.0 and (t == 1.0).mean() > 0.05
  assert abs(np.corrcoef(steps, s[inner])[0, 1]) < 0.1
  np.testing.assert_allclose((z_t == K).mean(1)[t == 1.0], 1.0)
  early = (z_t == K)[t < 0.3].mean()
  np.testing.assert_allclose(early, t[t < 0.3].mean(), atol=0.02)  # at t, not at s
  _, s, t = corrupt(dataclasses.replace(MASKED, independent_times=True), x, KEY)
  assert np.diff(np.sort(s)).std() > 1e-4 and np.all(t >= s)


def test_blocks_have_times_of_their_own():
  method = dataclasses.replace(MASKED, num_blocks=2)
  z_t, s, t = map(np.asarray, corrupt(method, X, KEY))
  assert z_t.shape == s.shape == t.shape == (B, D)
  for times in (s, t):
    halves = times.reshape(B, 2, D // 2)
    assert (halves == halves[..., :1]).all()
  np.testing.assert_allclose(np.sort(s[:, :: D // 2].reshape(-1)) % (1 / 32), s.min(), atol=1e-6)


def test_losses_are_equations_11_and_12_and_metrics_means_over_what_is_masked():
  """Of a teacher as it would be sampled."""
  (generator, auxiliary), metrics, r, _ = evaluate(VARIANTS[-1], ETA, PHI, THETA, KEY)
  r = jax.tree.map(np.asarray, r)
  p, at_t = np.exp(r.log_mean.astype(np.float64)), r.z_t == K
  np.testing.assert_allclose(metrics["entropy"], -(p * np.log(p)).sum(-1)[at_t].mean(), rtol=1e-5)
  theta = np.exp(np.asarray(predict(THETA, r.z_s, r.s), np.float64) / 0.6)
  theta /= theta.sum(-1, keepdims=True)
  best = theta == theta.max(-1, keepdims=True)
  order = np.sort(theta, -1)[..., ::-1].cumsum(-1)
  kept = theta >= np.take_along_axis(
    np.sort(theta, -1)[..., ::-1], (order < 0.5).sum(-1, keepdims=True), -1
  )
  assert (kept.sum(-1) > 1).any() and (best <= kept).all()
  theta *= np.where(kept, 1.0, np.exp(-3.0))
  theta /= theta.sum(-1, keepdims=True)
  log_phi = np.asarray(predict(PHI, r.z_s, r.s), np.float64)
  gap = (theta * (np.log(theta) - log_phi)).sum(-1)
  at_s = r.z_s == K
  np.testing.assert_allclose(metrics["teacher_auxiliary_gap"], gap[at_s].mean(), rtol=1e-4)
  weight = (at_s / r.s[:, None])[..., None]  # masked, and 1/s of `linear`
  expected = (weight * p * (log_phi - np.log(theta))).sum() / (B * D)
  np.testing.assert_allclose([generator, metrics["generator_loss"]], expected, rtol=1e-4)
  expected = -(weight * (p + 0.7 * theta) * log_phi).sum() / (B * D)
  np.testing.assert_allclose([auxiliary, metrics["auxiliary_loss"]], expected, rtol=1e-4)


def test_every_draw_of_a_rollout_moves_with_its_key():
  r, again = (
    jax.tree.map(np.asarray, evaluate(UNIFORM, ETA, PHI, THETA, key)[2])
    for key in jax.random.split(KEY)
  )
  assert (r.s != again.s).all() and (r.x != again.x).any() and (r.z_s != again.z_s).any()
  assert r.x.dtype == np.int32
