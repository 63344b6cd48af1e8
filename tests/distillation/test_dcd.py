"""DCD: its paths beside those of Gaussian vectors, its loss against the sum over all cases."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from configs import digits_dcd
from dmmd_jax import config as checks
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.distillation.dcd import DCD, DCDSettings, corrupt_together
from tests import enumeration
from tests.distillation.lookups import D, Lookup, make_parts, rows_of

K, STEP, SIZE = 2, 0.25, 1 << 18
MASKED = processes.Masked(K, schedules.Cosine())
UNIFORM = processes.Uniform(K, schedules.Cosine())
MARGINAL = processes.Marginal(K, probs=(0.3, 0.7))
LAW = np.array([8, 1, 2, 5]) / 16
BATCH = Batch(jnp.asarray(rows_of(LAW, K, SIZE)))


def name(process):
  return type(process).__name__


def joint(process, x, s, t):
  """`P(z_t, z_s | x)` `[states, states]`: `x` at both times, at `s` only, or at neither."""
  pi, size = enumeration.stationary(process), process.num_states
  alpha_s, alpha_t = (enumeration.alpha(process.schedule, time) for time in (s, t))
  of_x = np.eye(size)[x]
  never = np.diag(pi)  # one draw of pi, at both times
  return (
    alpha_t * np.outer(of_x, of_x)
    + (alpha_s - alpha_t) * np.outer(pi, of_x)
    + (1 - alpha_s) * never
  )


corrupt = jax.jit(corrupt_together, static_argnums=0)


@pytest.mark.parametrize("process", [MASKED, UNIFORM, MARGINAL], ids=name)
@pytest.mark.parametrize(("s", "t"), [(0.3, 0.7), (0.0, 0.2), (0.4, 1.0)])
def test_paths_have_their_joint_law(process, s, t):
  size = 100_000
  times = np.full(size, t), np.full(size, s)
  x = np.ones((size, 1), np.int32)
  z_t, z_s = map(np.asarray, corrupt(process, jax.random.key(0), x, *times))
  found = np.zeros((process.num_states,) * 2)
  np.add.at(found, (z_t[:, 0], z_s[:, 0]), 1 / size)
  np.testing.assert_allclose(found, joint(process, 1, s, t), atol=5 * 0.5 / np.sqrt(size))
  assert (found > 0).sum() <= (joint(process, 1, s, t) > 0).sum()


def ratio_of(alpha, num_categories):
  """`a_t / b_t` of Duo's Gaussian at which `alpha` tokens survive: its integral, turned round."""
  ratios, z = np.linspace(0.0, 8.0, 801), np.linspace(-9.0, 17.0, 4001)
  is_x = stats.norm.pdf(z - ratios[:, None]) * stats.norm.cdf(z) ** (num_categories - 1)
  is_x = is_x.sum(1) * (z[1] - z[0])
  return np.interp(alpha, (num_categories * is_x - 1) / (num_categories - 1), ratios)


@pytest.mark.parametrize("num_categories", [2, 5])
def test_paths_are_those_of_gaussian_vectors(num_categories):
  """Of two times, and so of both marginals; all of it in float64, as the paper defines it."""
  process = processes.Uniform(num_categories, schedules.Polynomial(2.0))
  rng, size, x = np.random.default_rng(0), 400_000, 1
  noise = rng.normal(size=(size, num_categories))
  for s, t in ((0.2, 0.5), (0.5, 0.9)):
    states = []
    for time in (t, s):
      signal = np.eye(num_categories)[x]
      ratio = ratio_of(enumeration.alpha(process.schedule, time), num_categories)
      states.append((ratio * signal + noise).argmax(-1))
    found = np.zeros((num_categories,) * 2)
    np.add.at(found, tuple(states), 1 / size)
    np.testing.assert_allclose(found, joint(process, x, s, t), atol=5 * 0.5 / np.sqrt(size))


def expected_loss(process, eta, theta):
  """Over times on a grid and every `(z_t, z_s)`; with masks, where `z_s` has them."""
  z, x = enumeration.sequences(process.num_states, D), enumeration.sequences(K, D)
  counts = z == K if isinstance(process, processes.Masked) else np.ones(z.shape, bool)
  t = np.minimum((np.arange(200) + 0.5) / 200 + STEP, 1.0)
  s = t - STEP
  paths = np.stack([  # [times, z_t, z_s]
    sum(
      LAW[i] * np.prod([joint(process, c, *times)[np.ix_(z[:, d], z[:, d])]
                        for d, c in enumerate(row)], 0)
      for i, row in enumerate(x)
    )
    for times in zip(s, t, strict=True)
  ])  # fmt: skip
  np.testing.assert_allclose(paths.sum((1, 2)), 1.0)

  def at_time(t, s, paths):
    predict = Lookup(process).log_mean
    student = predict(eta, z, jnp.full(len(z), t))[:, None]
    teacher = predict(theta, z, jnp.full(len(z), s))[None]
    losses = (jnp.exp(student) * (student - teacher)).sum(-1)
    return (paths * (losses * counts).sum(-1)).sum()

  total = jax.vmap(at_time)(*map(jnp.asarray, (t, s, paths))).sum()
  return total / (paths * counts.sum(-1)).sum()


@functools.cache
def expected_loss_and_gradient(process, eta_seed, theta_seed):
  single = [Lookup(process).init(jax.random.key(seed)) for seed in (eta_seed, theta_seed)]
  double = jax.tree.map(lambda a: np.asarray(a, np.float64), single)
  with jax.enable_x64(True):
    found = jax.jit(jax.value_and_grad(functools.partial(expected_loss, process)))(*double)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("num_blocks", [1, D])
@pytest.mark.parametrize("process", [MASKED, UNIFORM], ids=name)
def test_the_loss_is_an_expectation_over_all_cases(process, num_blocks):
  """Blocks have times of their own, of which those of an example are nearly equal."""
  eta, theta = (Lookup(process).init(jax.random.key(seed)) for seed in (1, 2))
  expected = expected_loss_and_gradient(process, 1, 2)
  found = jax.jit(
    jax.value_and_grad(DCD(make_parts(process, num_blocks=num_blocks)).loss, has_aux=True)
  )
  (loss, metrics), gradient = found(eta, theta, jnp.float32(STEP), BATCH, jax.random.key(0))
  np.testing.assert_allclose(loss, expected[0], rtol=0.01)
  assert metrics["dcd_loss"] == loss
  for one, other in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected[1]), strict=True):
    np.testing.assert_allclose(one, other, atol=0.015 * np.abs(other).max())


@pytest.mark.parametrize("process", [MASKED, UNIFORM], ids=name)
def test_a_student_rests_where_it_says_at_t_what_the_teacher_says_at_s(process):
  """The same of all tokens that count, but that the student is a step behind; of tokens that do
  not count each says something else."""
  shape = process.num_states**D, D, K
  counts = np.ones(shape, bool)
  if process == MASKED:
    counts = np.broadcast_to((enumeration.sequences(K + 1, D) == K)[..., None], shape)
  logits, slopes = jnp.array([0.7, -0.4]), jnp.array([-1.0, 2.0])

  def network(seed, behind):
    params = Lookup(process).init(jax.random.key(seed))
    return {
      "logits": jnp.where(counts, logits - behind * slopes, params["logits"]),
      "slopes": jnp.where(counts, slopes, params["slopes"]),
    }

  theta = network(2, 0.0)

  @jax.jit
  def largest(eta):
    key, batch = jax.random.key(0), Batch(BATCH.tokens[:512])
    gradient = jax.grad(DCD(make_parts(process)).loss, has_aux=True)(eta, theta, STEP, batch, key)[
      0
    ]
    return jnp.stack([jnp.abs(g).max() for g in jax.tree.leaves(gradient)]).max()

  assert largest(network(1, STEP)) < 1e-5
  assert largest(network(1, 0.0)) > 1e-3


def test_what_does_not_go_together_is_said():
  config = digits_dcd.get_config()
  config.distill.dcd.rounds = 6  # of which the last one has a step of a half
  checks.check(config)
  for changes, message in (
    # From 1 to 0 the target is data: the student would be left with the likeliest token alone.
    ({"distill.dcd.rounds": 7}, r"would step 1, where at most 0\.5"),
    ({"distill.noise": "pyramid"}, "distill.noise is 'pyramid'; for dcd set it to 'none'"),
    ({"distill.temperature": 0.5}, "would act anew in every round"),
    ({"distill.from_prior": True}, "distill.from_prior is True"),
    ({"distill.num_steps": 2}, "expected a step for each round at least"),
  ):
    config = digits_dcd.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(checks.ConfigError, match=message):
      checks.check(config)


def test_defaults_are_the_papers():
  assert dataclasses.astuple(DCDSettings()) == (5, 512)
