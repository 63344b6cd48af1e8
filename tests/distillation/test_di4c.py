"""Di4C beside its losses written out, where it rests, and its passes."""

import functools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_di4c
from dmmd_jax import config as checks
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import losses, processes
from dmmd_jax.diffusion.categorical import draw, uniforms
from dmmd_jax.networks.noise import sample_noise
from dmmd_jax.phases import distill
from tests.phases.tables import (  # noqa: F401
  DATA,
  KEY,
  NOISE_DIM,
  B,
  D,
  K,
  Table,
  TableConfig,
  make_config,
  make_params,
  tables,
)

L = 3
BATCH = Batch(jnp.asarray(DATA.train[:B]), jnp.asarray(DATA.train_labels[:B]))
SMALL = {"num_latents": L, "data_weight": 0.7, "delta": 0.3, "share_below": 0.5, "teacher_steps": 4}


def make_method(settings=SMALL, **changes):
  config = make_config(method="di4c", noise="latent", **changes)
  config.distill.di4c = settings
  return distill.make_method(config, DATA)


def truncated(log_p, temperature, top_p):
  """With the penalty of 2 nats that configs have."""
  p = np.exp(np.asarray(log_p, np.float64) / temperature)
  p /= p.sum(-1, keepdims=True)
  for row in p.reshape(-1, K):
    mass = 0.0
    for c in np.argsort(-row):
      mass, row[c] = mass + row[c], row[c] * np.exp(-2.0 * (mass >= top_p < 1))
  return np.log(p / p.sum(-1, keepdims=True)).astype(np.float32)


def draws_and_laws(
  eta,
  theta,
  masked=True,
  prediction="mean",
  temperature=1.0,
  top_p=1.0,
  guidance=0.0,
  passes=1,
):
  """Times and draws of a step, and the log-probabilities of student, next step and teacher."""
  process = processes.Masked(K) if masked else processes.Uniform(K)
  c, keys = SMALL, jax.random.split(KEY, 8)

  def law(params, z, t, key=None, labels=BATCH.labels):
    given = {"labels": jnp.repeat(labels, len(z) // B, 0)}
    if key is not None:
      given["noise"] = 0.7 * sample_noise(key, "latent", len(z), (D,), NOISE_DIM)
    table = Table(TableConfig(), process.num_states, 0 if key is None else NOISE_DIM)
    log_x = jax.nn.log_softmax(table.apply({"params": params}, z, t, **given))
    if prediction == "leave_one_out":
      log_x = process.to_mean(log_x, z, t)
    if guidance and key is None and labels is BATCH.labels:
      without = law(params, z, t, labels=jnp.full(B, 2))
      log_x = jax.nn.log_softmax((1 + guidance) * log_x - guidance * without)
    if masked:
      seen = jnp.maximum(jax.nn.one_hot(z, K), 1e-30)
      log_x = jnp.where((z == K)[..., None], log_x, jnp.log(seen))
    return log_x

  below_key, time_key = jax.random.split(keys[0])
  u = losses.sample_times(time_key, B)
  below = jax.random.uniform(below_key, (B,)) < c["share_below"]
  t = jnp.where(below, c["delta"] * u, c["delta"] + (1 - c["delta"]) * u)
  z_t = process.corrupt(keys[1], BATCH.tokens, t)
  z, times = jnp.repeat(z_t, L, 0), jnp.repeat(t, L, 0)
  log_teacher = law(theta, z, times, keys[2]) if passes > 1 else law(theta, z_t, t)
  if top_p < 1 or temperature != 1:
    truncate = functools.partial(truncated, temperature=temperature, top_p=top_p)
    log_teacher = jax.pure_callback(truncate, log_teacher, log_teacher)
  each = log_teacher if passes > 1 else jnp.repeat(log_teacher, L, 0)
  x_hat = draw(each, uniforms(keys[3], z.shape))
  s = times - jnp.minimum(1 / c["teacher_steps"], times / 2)
  z_s = process.sample_posterior(keys[4], z, x_hat, s, times)
  log_next = law(eta, z_s, s, keys[5])
  x_0 = draw(log_next, uniforms(keys[6], z.shape))
  return t, below, x_0, (law(eta, z, times, keys[7]), log_next, log_teacher)


def written_out(t, below, x_0, laws):
  """The loss with Python's loops over examples, latents and positions, in float64."""
  c = SMALL
  assert 0 < below.sum() < B
  p, q, teacher = (np.exp(a.astype(np.float64)).reshape(B, -1, D, K) for a in laws)
  x_0 = x_0.reshape(B, L, D)

  def correlation(p, x):
    joint = np.mean([np.prod([p[i, d, x[d]] for d in range(D)]) for i in range(L)])
    return np.log(joint) - sum(np.log(p[:, d, x[d]].mean()) for d in range(D))

  def kl(q, p):
    return (q * np.log(np.where(q > 0, q, 1) / p)).sum()

  total = 0.0
  for b in range(B):
    weight = c["data_weight"] / (1 + np.exp(-20 * (float(t[b]) - 0.5)))
    total -= weight * correlation(p[b], np.asarray(BATCH.tokens[b]))
    total += kl(teacher[b].mean(0), p[b].mean(0))
    if t[b] < c["delta"]:
      total += np.mean([kl(teacher[b].mean(0), p[b, i]) for i in range(L)])
    else:
      total -= np.mean([correlation(p[b], x_0[b, i]) for i in range(L)])
      total += kl(q[b].mean(0), p[b].mean(0))
  return total / (B * D)


AS_SAMPLED = {"temperature": 0.6, "top_p": 0.7, "guidance": 1.5}
CASES = {
  "masked": ({}, {}),
  "leave_one_out_as_sampled": (
    {"process__name": "uniform", "teacher__loss": "bound"} | AS_SAMPLED,
    {"masked": False, "prediction": "leave_one_out"} | AS_SAMPLED,
  ),
  "passes": ({}, {"passes": 2}),
}


@functools.cache
def found_and_written_out(case):
  changes, expected = CASES[case]
  passes = expected.get("passes", 1)
  method = make_method(SMALL | {"passes": passes}, **changes)
  eta, _, theta = make_params(method.parts.process.num_states)
  if passes > 1:
    theta = {**theta, "noise": eta["noise"][::-1]}

  @jax.jit
  def both(eta, theta):
    """One program, in which the same draws are computed once."""
    return method.loss(eta, theta, BATCH, KEY), draws_and_laws(eta, theta, **expected)

  (found, metrics), written = jax.tree.map(np.asarray, both(eta, theta))
  return found, metrics, written_out(*written)


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_written_out(case):
  found, metrics, expected = found_and_written_out(case)
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  if case != "masked":
    plain = found_and_written_out("masked")[-1]
    assert abs(found - plain) > 1e-3, "the case cannot show the setting"
  np.testing.assert_allclose(metrics["data_loss"] + metrics["consistency_loss"], found, rtol=1e-5)


def test_a_student_that_is_its_teacher_rests_below_delta_at_any_latent():
  method = make_method(SMALL | {"share_below": 1.0, "data_weight": 10.0})
  _, _, theta = make_params(K + 1)
  eta = {**theta, "noise": np.zeros((NOISE_DIM, K), np.float32)}
  of_loss = jax.jit(jax.value_and_grad(method.loss, has_aux=True))

  def value_and_norm(eta):
    (value, _), gradient = of_loss(eta, theta, BATCH, KEY)
    return abs(value), max(np.abs(g).max() for g in gradient.values())

  assert max(value_and_norm(eta)) < 1e-5
  moved = {**eta, "slope": eta["slope"] + np.array([3.0, 0.0, 0.0], np.float32)}
  assert min(value_and_norm(moved)) > 1e-3


def test_passes_have_the_student_so_far_as_their_teacher_and_can_be_resumed():
  """Five steps in two passes: the teacher changes before the fourth step, to the average then."""
  method = make_method(SMALL | {"passes": 2}, num_steps=5, ema=0.5)
  _, _, theta = make_params(K + 1)
  state = nn.unbox(jax.jit(method.init)(jax.random.key(2), theta))
  for name, value in state.teacher.items():
    np.testing.assert_array_equal(value, theta[name] if name in theta else state.ema[name])
  step = jax.jit(method.step)
  states = [state]
  for i in range(5):
    if i in (1, 2):  # in the middle of a pass, and where one begins
      saved = flax.serialization.to_bytes(state)
      state = flax.serialization.from_bytes(jax.tree.map(jnp.zeros_like, state), saved)
    state, metrics = step(state, BATCH, jax.random.fold_in(KEY, i))
    assert all(np.isfinite(v) for v in metrics.values())
    states.append(state)
  whole = states[0]
  for i, after in enumerate(states[1:]):
    whole, _ = step(whole, BATCH, jax.random.fold_in(KEY, i))
    jax.tree.map(np.testing.assert_array_equal, whole, after)
    expected = states[0].teacher if i < 1 else states[2].ema
    jax.tree.map(np.testing.assert_array_equal, after.teacher, expected)
  assert any((states[0].teacher[n] != states[2].ema[n]).any() for n in theta)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"distill.noise": "none"}, "for di4c set it to 'latent'"),
    ({"distill.di4c.passes": 9, "distill.num_steps": 8}, "at least one step for each"),
    ({"distill.di4c.passes": 2, "distill.guidance": 0.5, "network.classes": True}, "act anew"),
    ({"distill.from_prior": True, "distill.student_nfe": 1}, "follows itself a step later"),
  ],
)
def test_what_does_not_go_together_is_refused(changes, said):
  config = digits_di4c.get_config()
  config.distill.di4c.passes = 1
  checks.check(config)
  config.update_from_flattened_dict(changes)
  with pytest.raises(checks.ConfigError, match=said):
    checks.check(config)
