"""Orders and sets of revealed positions are those of a plain version, example by example."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.diffusion.samplers.remasking import P2
from dmmd_jax.diffusion.samplers.revealing import Confidence, EntropyBounded, Threshold
from dmmd_jax.diffusion.samplers.sampler import Moment, Reading
from tests.diffusion.samplers.steps import MASKED, B, K, N, make_case, revealed, take


def in_order(masked, scores, block):
  """Masked positions of one example, the highest score first, block after block."""
  size = block or len(scores)
  return sorted(np.flatnonzero(masked), key=lambda d: (d // size, -scores[d]))


@pytest.mark.parametrize(("score", "block"), [("probability", 0), ("margin", 3), ("entropy", 0)])
def test_confidence_reveals_the_best_as_many_as_the_schedule_says(score, block):
  sampler, (m, reading) = Confidence(score=score, block=block), make_case()
  scores = {"probability": reading.log_prob, "margin": reading.margin, "entropy": -reading.entropy}
  z, scores = np.asarray(m.z), np.asarray(scores[score])
  memory = sampler.start(MASKED, m.z, m.t)
  found, _ = take(sampler, m, reading, memory)
  chosen = []
  for b in range(B):
    masked = z[b] == K
    number = masked.sum() - round(masked.sum() * float(m.s[b]) / float(m.t[b]))
    chosen.append(in_order(masked, scores[b], block)[:number])
  np.testing.assert_array_equal(found, revealed(m, reading, chosen))
  needed = np.asarray(sampler.needs(MASKED, m, memory))
  assert needed.tolist() == [bool(positions) for positions in chosen]
  assert 0 < needed.sum() < B and max(map(len, chosen)) > 3


def test_noise_on_the_order_grows_with_its_temperature_and_the_time():
  m, reading = make_case(share=1.0)
  m = m._replace(s=m.t / 2)
  best = np.asarray(reading.log_prob).argmax(1)

  def share_of_best(temperature, m):
    sampler = Confidence(choice_temperature=temperature)
    found, _ = take(sampler, m, reading, sampler.start(MASKED, m.z, m.t))
    return (found[np.arange(B), best] != K)[1:].mean()

  def order(key):
    alike = reading._replace(log_prob=jnp.full((B, N), -1.0))
    moment = m._replace(z=jnp.full((B, N), K), t=jnp.ones(B), s=jnp.full(B, 0.5), key=key)
    sampler = Confidence(choice_temperature=1.0)
    return take(sampler, moment, alike, sampler.start(MASKED, moment.z, moment.t))[0] == K

  first, second = order(jax.random.key(1)), order(jax.random.key(2))
  assert len(np.unique(first, axis=0)) > 10 and (first == second).all(1).mean() < 0.2
  plain, hot = share_of_best(0.0, m), share_of_best(100.0, m)
  late = share_of_best(1.0, m._replace(t=m.t * 1e-3, s=m.t * 5e-4))
  assert plain > 0.8 and hot < plain - 0.15 and late == plain


@pytest.mark.parametrize(
  "sampler",
  [
    Confidence(),
    Confidence(score="margin"),
    Confidence(score="entropy"),
    EntropyBounded(gamma=1.5),
    P2(),
  ],
  ids=repr,
)
def test_rounding_decides_nothing_between_positions_that_are_alike(sampler):
  """Scores as they are at t = 1 where all positions have one law, as two machines might round."""
  m, _ = make_case(share=1.0)
  m = m._replace(z=jnp.full((B, N), K), is_free=jnp.ones((B, N), bool), t=jnp.ones(B))
  m = m._replace(s=jnp.full(B, 0.6))

  def step(seed, key=m.key):
    noise = 1e-6 * np.random.default_rng(seed).normal(size=(3, B, N)).astype(np.float32)
    reading = Reading(jnp.zeros((B, N), int), 0.7 + noise[0], -1.2 + noise[1], 0.03 + noise[2])
    moment = m._replace(key=key)
    return take(sampler, moment, reading, sampler.start(MASKED, m.z, m.t))[0] == 0

  here, there = step(1), step(2)
  assert here.sum(1).min() > 0 and here.sum(1).max() < N
  assert (here == there).all(1).mean() > 0.9  # 1e-6 may part two draws now and then
  assert (here == step(1, jax.random.key(9))).all(1).mean() < 0.5
  # Each position is as likely as any other: 60 examples have a standard error of 0.06.
  np.testing.assert_allclose(here.mean(0), here.mean(), atol=0.25)


@pytest.mark.parametrize("block", [0, 4])
def test_entropies_are_bounded_but_for_the_largest(block):
  sampler, (m, reading) = EntropyBounded(gamma=0.7, block=block), make_case(share=0.8)
  z, entropy = np.asarray(m.z), np.asarray(reading.entropy, np.float64)
  found, _ = take(sampler, m, reading)
  chosen = []
  for b in range(B):
    order = in_order(z[b] == K, -entropy[b], block)
    order = [d for d in order if block == 0 or d // block == order[0] // block]
    within = [k for k in range(1, len(order) + 1) if entropy[b, order[: k - 1]].sum() <= 0.7]
    chosen.append(order[: max(within, default=0)])
  np.testing.assert_array_equal(found, revealed(m, reading, chosen))
  sizes = {len(positions) for positions in chosen}
  assert {0, 2, 3} <= sizes
  last, _ = take(sampler, m._replace(is_last=jnp.asarray(True)), reading)
  np.testing.assert_array_equal(last, np.where(z == K, reading.x, z))
  assert (np.asarray(sampler.needs(MASKED, m, ())) == (z == K).any(1)).all()


@pytest.mark.parametrize("block", [0, 4])
def test_a_threshold_reveals_all_above_it_and_at_least_the_best(block):
  sampler, (m, reading) = Threshold(threshold=0.5, block=block), make_case(share=0.8)
  z, p = np.asarray(m.z), np.exp(np.asarray(reading.log_prob))
  found, _ = take(sampler, m, reading)
  chosen = []
  for b in range(B):
    order = in_order(z[b] == K, p[b], block)
    order = [d for d in order if block == 0 or d // block == order[0] // block]
    chosen.append(order[:1] + [d for d in order[1:] if p[b, d] >= 0.5])
  np.testing.assert_array_equal(found, revealed(m, reading, chosen))
  assert any(p[b, positions[0]] < 0.5 for b, positions in enumerate(chosen) if positions)
  assert (np.asarray(sampler.needs(MASKED, m, ())) == (z == K).any(1)).all()
  last, _ = take(sampler, m._replace(is_last=jnp.asarray(True)), reading)
  np.testing.assert_array_equal(last, np.where(z == K, reading.x, z))


@pytest.mark.parametrize(("gamma", "number"), [(0.0, 5), (6e-5, 6)])
def test_entropies_that_are_alike_are_bounded_as_they_are(gamma, number):
  m, reading = make_case(share=1.0)
  m = m._replace(z=jnp.full((B, N), K), is_free=jnp.ones((B, N), bool))
  reading = reading._replace(
    entropy=jnp.broadcast_to(jnp.where(jnp.arange(N) < 4, 0, 5e-5), (B, N))
  )
  found, _ = take(EntropyBounded(gamma=gamma), m, reading)
  assert ((found != K).sum(1) == number).all()


@pytest.mark.parametrize("nfe", [8, 50])
def test_a_network_is_told_where_the_masks_are_not_how_many_steps_there_may_be(nfe):
  """One token a step, each of the eighths of its sequence that were masked when it was drawn."""
  process = processes.Masked(9, schedules.Cosine())

  def predict(z, t, key):
    category = jnp.round(8 * process.schedule.beta(t)).astype(int)
    certain = jnp.log(0.9 * jax.nn.one_hot(category, 9) + 0.1 / 9)
    return jnp.broadcast_to(certain[:, None], (*z.shape, 9))

  for sampler in (Threshold(threshold=1.0, tokens="likeliest"), EntropyBounded(gamma=1e-3)):
    drawn = Sampling(sampler)(predict, process, jax.random.key(0), (400, 8), nfe)
    counts = [(np.asarray(drawn.tokens) == i).sum() / 400 for i in range(9)]
    np.testing.assert_allclose(counts[1:], 1.0, atol=0.2)
    assert (drawn.spent == 8).all() and counts[0] < 0.2
  # Of a prompt of four tokens and four others, of which two are masked.
  z, is_free = jnp.array([4 * [0] + [1, 1, 9, 9]]), jnp.arange(8)[None] >= 4
  moment = Moment(z, jnp.ones(1), jnp.zeros(1), is_free, jnp.asarray(False), jax.random.key(0))
  times = [sampler.asked_at(process, moment) for sampler in (Threshold(), Confidence())]
  np.testing.assert_allclose(process.schedule.beta(times[0]), 0.5, rtol=1e-5)
  assert times[1] == 1.0


def test_a_whole_decoding_is_that_of_a_plain_version_and_says_what_it_spent():
  """A network whose prediction at a mask depends on the tokens beside it, decoded greedily."""
  rng = np.random.default_rng(3)
  tables = jnp.asarray(rng.normal(0, 2.5, (2, N, K + 1, K)), jnp.float32)

  def predict(z, t, key):
    left, right = jnp.roll(z, 1, axis=1), jnp.roll(z, -1, axis=1)
    place = jnp.arange(N)
    return jax.nn.log_softmax(tables[0][place, left] + tables[1][place, right])

  start = np.where(rng.random((B, N)) < 0.8, K, rng.integers(K, size=(B, N)))
  start[0] = 0
  nfe, sampler = 5, EntropyBounded(gamma=0.9, tokens="likeliest")
  finish = functools.partial(Sampling(sampler).finish, predict, MASKED, jax.random.key(0))
  with_path = jax.jit(lambda z: finish(z, jnp.ones(B), nfe, with_path=True))
  drawn = with_path(jnp.asarray(start))
  assert jax.eval_shape(lambda z: finish(z, jnp.ones(B), nfe), start).path is None
  z, spent, path = start.copy(), np.zeros(B), [start.copy()]
  for i in range(nfe):
    log_p = np.asarray(predict(jnp.asarray(z), None, None), np.float64)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    for b in range(B):
      order = in_order(z[b] == K, -entropy[b], 0)
      spent[b] += bool(order)
      number = sum(entropy[b, order[:k]].sum() <= 0.9 for k in range(len(order)))
      for d in order if i == nfe - 1 else order[:number]:
        z[b, d] = log_p[b, d].argmax()
    path.append(z.copy())
  np.testing.assert_array_equal(drawn.path, path)
  np.testing.assert_array_equal(drawn.spent, spent)
  assert {0, 2, 3} <= {*spent} and (z != K).all()


def test_more_steps_than_tokens_spend_no_more_than_there_are_tokens():
  process = processes.Masked(3)
  predict = lambda z, t, key: jnp.log(jnp.broadcast_to(jnp.array([0.2, 0.5, 0.3]), (*z.shape, 3)))
  draw = jax.jit(lambda key, n: Sampling(Confidence())(predict, process, key, (5, 3), n))
  few, many = (draw(jax.random.key(0), n) for n in (2, 50))
  assert few.spent.tolist() == [2] * 5 and many.spent.tolist() == [3] * 5
  np.testing.assert_allclose(many.entropy, 1.0297, atol=1e-3)
