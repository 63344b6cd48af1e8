"""SDTT against the sum over every `(z_t, z_s)` and all times, with networks that all differ."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_sdtt
from dmmd_jax import config as checks
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.distillation.divergences import DIVERGENCES
from dmmd_jax.distillation.sdtt import SDTT, SDTTSettings
from tests import enumeration
from tests.distillation.lookups import D, Lookup, make_parts, rows_of

K, STEP, SIZE = 2, 0.3, 1 << 16
MASKED = processes.Masked(K, schedules.Cosine())
LAW = np.array([8, 1, 2, 5]) / 16
BATCH = Batch(jnp.asarray(rows_of(LAW, K, SIZE)))
Z = enumeration.sequences(MASKED.num_states, D)


def network(seed):
  return Lookup(MASKED).init(jax.random.key(seed))


def method(loss, num_blocks=1):
  return SDTT(make_parts(MASKED, num_blocks=num_blocks), SDTTSettings(loss=loss))


def divergence(name, p, q):
  """As the definitions read; log-probabilities of student and target."""
  p, q, log_p, log_q = jnp.exp(p), jnp.exp(q), p, q
  return {
    "kl_student_teacher": p * (log_p - log_q),
    "kl_teacher_student": q * (log_q - log_p),
    "squared_error": (log_p - log_q) ** 2 / K,
    "tv": abs(p - q) / 2,
  }[name].sum(-1)


def expected_losses(eta, theta):
  """Over times on a grid, what is masked at `t`, and what the teacher unmasks until `t - STEP`."""
  x, is_masked, predict = enumeration.sequences(K, D), Z == K, Lookup(MASKED).log_mean
  t = (np.arange(200) + 0.5) / 200
  s = np.maximum(t - STEP, 0.0)
  start = np.stack([enumeration.likelihood(MASKED, Z, x, one).prod(-1) @ LAW for one in t])
  stay = (1 - enumeration.alpha(MASKED.schedule, s)) / (1 - enumeration.alpha(MASKED.schedule, t))

  def at_time(t, s, start, stay):
    student, first, second = (
      predict(params, Z, jnp.full(len(Z), time))
      for params, time in ((eta, t), (theta, t), (theta, s))
    )
    step = 1.0  # [z_t, z_s]
    for d in range(D):
      to = jnp.concatenate([jnp.exp(first[:, d]) * (1 - stay), jnp.full((len(Z), 1), stay)], 1)
      step *= jnp.where(is_masked[:, None, d], to[:, Z[:, d]], Z[:, None, d] == Z[:, d])
    target = jnp.where(is_masked[None, ..., None], second[None], first[:, None])
    losses = jnp.stack([divergence(name, student[:, None], target) for name in DIVERGENCES])
    return (start[:, None] * step * (losses * is_masked[:, None]).sum(-1)).sum((1, 2))

  total = jax.vmap(at_time)(*map(jnp.asarray, (t, s, start, stay))).sum(0)
  return total / (start * is_masked.sum(-1)).sum()


@pytest.fixture(scope="module")
def expected():
  """Losses by name, and their gradients."""
  single = [network(seed) for seed in (1, 2)]
  with jax.enable_x64(True):
    double = jax.tree.map(lambda a: a.astype(jnp.float64), single)
    losses = jax.jit(expected_losses)(*double)
    gradients = jax.jit(jax.jacrev(expected_losses))(*double)
  return dict(
    zip(
      DIVERGENCES, zip(losses, gradients["logits"], gradients["slopes"], strict=True), strict=True
    )
  )


@pytest.mark.parametrize(
  ("name", "num_blocks"), [*((name, 1) for name in DIVERGENCES), ("kl_student_teacher", D)]
)
def test_losses_are_expectations_over_all_cases(name, num_blocks, expected):
  """Blocks have times of their own, of which those of an example are nearly equal."""
  found = jax.jit(jax.value_and_grad(method(name, num_blocks).loss, has_aux=True))
  (loss, metrics), gradient = found(
    network(1), network(2), jnp.float32(STEP), BATCH, jax.random.key(0)
  )
  np.testing.assert_allclose(loss, expected[name][0], rtol=0.01)
  assert metrics["sdtt_loss"] == loss
  for one, other in zip((gradient["logits"], gradient["slopes"]), expected[name][1:], strict=True):
    np.testing.assert_allclose(one, other, atol=0.015 * np.abs(other).max())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_rests_where_it_is_its_target_at_masked_positions(name):
  """Both say the same of masks at all times, and other things of what they see."""
  same = jnp.asarray(Z == K)[..., None]
  constant = jnp.array([0.7, -0.4])

  def network_of(seed):
    params = network(seed)
    return {
      "logits": jnp.where(same, constant, params["logits"]),
      "slopes": jnp.where(same, 0.0, params["slopes"]),
    }

  eta, theta = network_of(1), network_of(2)
  assert not (eta["logits"] == theta["logits"]).all()

  @jax.jit
  def largest(eta):
    key, batch = jax.random.key(0), Batch(BATCH.tokens[:512])
    gradient = jax.grad(method(name).loss, has_aux=True)(eta, theta, STEP, batch, key)[0]
    return jnp.stack([jnp.abs(g).max() for g in jax.tree.leaves(gradient)]).max()

  assert largest(eta) < 1e-6
  assert largest(eta | {"logits": eta["logits"] + same * jnp.array([0.2, 0.0])}) > 1e-3
  assert largest(eta | {"slopes": eta["slopes"] + same * jnp.array([0.2, 0.0])}) > 1e-3


def test_what_does_not_go_together_is_said():
  checks.check(digits_sdtt.get_config())
  for changes, message in (
    ({"process.name": "uniform"}, "process.name is 'uniform'"),
    ({"distill.student_nfe": 4}, "a teacher of 8 n: set the former to 32"),
    ({"distill.noise": "pyramid"}, "distill.noise is 'pyramid'; for sdtt set it to 'none'"),
    ({"distill.temperature": 0.9}, "would act anew in every round"),
    ({"distill.from_prior": True}, "distill.from_prior is True"),
    ({"distill.num_steps": 2}, "distill.num_steps is 2 and distill.sdtt.rounds 3"),
  ):
    config = digits_sdtt.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(checks.ConfigError, match=message):
      checks.check(config)


def test_defaults_are_the_papers():
  """From 1,024 steps to the 8 of a default student in 7 rounds."""
  assert dataclasses.astuple(SDTTSettings()) == (7, 1024, "kl_student_teacher")
