"""Remasking and correctors: their laws by enumeration, their sets by a plain version."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data import toy
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.diffusion.categorical import uniforms
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.diffusion.samplers.ancestral import Ancestral
from dmmd_jax.diffusion.samplers.remasking import P2, Psi, ReMDM, remasking_probabilities
from dmmd_jax.diffusion.samplers.sampler import Moment, Reading, read
from tests import enumeration
from tests.diffusion.samplers.steps import (
  B,
  K,
  law_of_step,
  make_case,
  marginals,
  take,
)

JOINT = toy.Mixture(
  np.array([0.6, 0.4]), np.array([[[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]], [[0.1, 0.1, 0.8]] * 2])
)
ALL = enumeration.sequences(3, 2)
LAW = np.exp(JOINT.log_joint(ALL)).sum(-1)


@pytest.mark.parametrize("schedule", enumeration.SCHEDULES, ids=repr)
def test_a_visible_share_is_that_of_the_schedule_whatever_is_masked_again(schedule):
  t, s, sigma = (x.reshape(-1) for x in np.meshgrid(*[np.linspace(0, 1, 9)] * 3))
  s = s * t
  mask, reveal = map(
    np.asarray, remasking_probabilities(schedule, *(jnp.asarray(x) for x in (sigma, s, t)))
  )
  a_s, a_t = (enumeration.alpha(schedule, x) for x in (s, t))
  assert (mask >= 0).all() and (mask <= sigma + 1e-6).all()
  assert (reveal >= 0).all() and (reveal <= 1 + 1e-6).all()
  np.testing.assert_allclose(a_t * (1 - mask) + (1 - a_t) * reveal, a_s, atol=2e-6)
  low = sigma < 0.99 * np.minimum(1, (1 - a_s) / np.maximum(a_t, 1e-9))
  np.testing.assert_allclose(mask[low], sigma[low], rtol=1e-6)


def posterior_with(process, s, t, sigma):
  """ReMDM's law of `z_s` for a state and a one-hot token, with this sigma of visible tokens."""
  a_s, a_t = (enumeration.alpha(process.schedule, x) for x in (s, t))

  def of_x(i, x):
    mask = np.eye(process.num_states)[-1]
    if i < process.num_categories:
      return (1 - sigma) * np.eye(process.num_states)[i] + sigma * mask
    reveal = (a_s - (1 - sigma) * a_t) / (1 - a_t)
    return reveal * np.pad(x, (0, 1)) + (1 - reveal) * mask

  return of_x


def psi_law(process, s, t, kappa):
  def of_x(i, x):
    if isinstance(process, processes.Masked) and i < process.num_categories:
      x = np.eye(process.num_categories)[i]
    anew = np.pad(x, (0, process.num_states - 3)) @ enumeration.transition(process, 0.0, s)
    return kappa * enumeration.posterior(process, i, x, s, t) + (1 - kappa) * anew

  return of_x


MASKED = processes.Masked(3, schedules.Cosine())
T, S = 0.3, 0.1
A_T, A_S = (enumeration.alpha(MASKED.schedule, x) for x in (T, S))
LARGEST = min(1.0, (1 - A_S) / A_T)
CASES = {
  "remdm cap": (MASKED, ReMDM("cap", 0.15), posterior_with(MASKED, S, T, 0.15)),
  "remdm rescale": (MASKED, ReMDM("rescale", 0.7), posterior_with(MASKED, S, T, 0.7 * LARGEST)),
} | {
  f"{sampler} {type(process).__name__}": (process, sampler, psi_law(process, S, T, kappa))
  for process in enumeration.make_processes(3, schedules.Cosine())
  for sampler, kappa in ((Psi(0.4), 0.4), (Ancestral(), 1.0))
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_its_law_and_keeps_the_marginals_of_the_process(case):
  process, sampler, of_x = CASES[case]
  z = enumeration.sequences(process.num_states, 2)
  expected = law_of_step(process, LAW, z, S, T, of_x)
  at_s, _ = marginals(process, LAW, 2, S)
  _, law = marginals(process, LAW, 2, T)
  np.testing.assert_allclose(np.einsum("n,nds->ds", law, expected), at_s, atol=1e-12)
  n = 6000
  start = jnp.asarray(np.repeat(z, n, axis=0))

  @jax.jit
  def step(start):
    s, t = (jnp.full(len(start), time) for time in (S, T))
    keys = jax.random.split(jax.random.key(0))
    reading = read(JOINT.log_mean(process, start, t), uniforms(keys[0], start.shape))
    # What is said of visible tokens does not matter.
    reading = reading._replace(x=jnp.where(process.active(start), reading.x, 0))
    m = Moment(start, t, s, jnp.ones(start.shape, bool), jnp.asarray(False), keys[1])
    z_s, _ = sampler.step(process, m, reading, ())
    return jax.nn.one_hot(z_s.reshape(len(z), n, 2), process.num_states).mean(1)

  error = np.sqrt(expected * (1 - expected) / n)
  off = np.abs(np.asarray(step(start)) - expected)
  assert (off <= 4.5 * error + 1e-6).all(), (off / (error + 1e-9)).max()


def test_conf_shares_the_largest_probability_by_what_tokens_had_when_revealed():
  sampler, (m, reading) = ReMDM("conf"), make_case()
  process = processes.Masked(K)
  memory = jnp.asarray(np.random.default_rng(1).random(m.z.shape), jnp.float32)
  sigma = np.asarray(sampler.sigma(process, m, memory))
  visible = (np.asarray(m.z) != K) & np.asarray(m.is_free)
  weights = np.where(visible, np.exp(-np.asarray(memory)), 0.0)
  shares = weights / np.maximum(weights.sum(1, keepdims=True), 1e-9)
  largest = np.minimum(1, m.s / (1 - m.t + 1e-9))[:, None]
  np.testing.assert_allclose(sigma, shares * largest, rtol=1e-4)
  z, kept = take(sampler, m, reading, memory)
  new = (np.asarray(m.z) == K) & (z != K)
  assert new.any() and (np.asarray(m.z)[visible] != z[visible]).any()
  np.testing.assert_allclose(kept, np.where(new, np.exp(reading.log_prob), memory), rtol=1e-6)


def test_the_loop_holds_alpha_and_masks_there_only():
  """Its states on a path of one-token examples: shares of masks, and who masks what."""
  process, sampler = processes.Masked(3, schedules.Cosine()), ReMDM("loop", 0.3)
  t = jnp.array([1.0, 0.775, 0.55, 0.4, 0.05, 0.025, 0.0])
  beta = process.schedule.beta(sampler.time(process.schedule, t))
  np.testing.assert_allclose(beta[jnp.array([0, 2, 3, 4, 6])], [1, 0.1, 0.1, 0.1, 0], atol=1e-6)
  assert 0.1 < beta[1] < 1 and 0 < beta[5] < 0.1
  predict = lambda z, t, key: jnp.log(jnp.full((*z.shape, 3), 1 / 3))
  draw = jax.jit(
    lambda key: Sampling(sampler)(predict, process, key, (20_000, 1), 20, with_path=True).path
  )
  z = np.asarray(draw(jax.random.key(0)))[..., 0]
  again = ((z[:-1] != 3) & (z[1:] == 3)).mean(1)
  # From 0.55 to 0.05 are the steps 9 to 18; sigma is at most beta / alpha.
  np.testing.assert_allclose(again[9:19], 0.1, atol=0.01)
  assert not again[:9].any() and not again[19:].any() and (z[-1] != 3).all()
  np.testing.assert_allclose((z == 3).mean(1)[9:20], 0.1, atol=0.01)


def test_kappa_is_one_outside_its_times():
  sampler = Psi(0.3, begin=0.8, end=0.2)
  kappa = sampler.kappa_at(jnp.array([1.0, 0.8, 0.5, 0.2, 0.1]))
  np.testing.assert_allclose(kappa, [1, 0.3, 0.3, 1, 1])


def test_path_planning_masks_the_least_probable_of_all_free_tokens():
  (m, reading), eta = make_case(), 0.4
  process = processes.Masked(K)
  found, _ = take(P2(eta), m, reading)
  z, x, log_p = (np.asarray(a) for a in (m.z, reading.x, reading.log_prob))
  masked_again = 0
  for b in range(B):
    free = np.flatnonzero(np.asarray(m.is_free)[b])
    score = {d: log_p[b, d] * (1 if z[b, d] == K else eta) for d in free}
    number = round(float(process.schedule.beta(m.s)[b]) * len(free))
    low = sorted(free, key=score.get)[:number]
    expected = np.where(z[b] == K, x[b], z[b])
    masked_again += (expected[low] == z[b][low]).sum()
    expected[low] = K
    np.testing.assert_array_equal(found[b], expected)
  assert masked_again > 5


def test_p2_with_eta_0_masks_no_visible_token_however_probable_the_others_are():
  z = jnp.where(jnp.arange(8) < 4, 0, K)
  z, n = jnp.broadcast_to(z, (500, 8)), jnp.ones(500)
  free = jnp.ones((500, 8), bool)
  moment = Moment(z, 0.5 * n, 0.25 * n, free, jnp.asarray(False), jax.random.key(0))
  reading = Reading(jnp.ones((500, 8), int), jnp.zeros((500, 8)), jnp.full((500, 8), -5e-5))
  found, _ = take(P2(eta=0.0), moment, reading)
  assert (found[:, :4] == 0).all() and ((found == K).sum(1) == 2).all()
