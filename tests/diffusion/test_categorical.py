"""Temperature, top-p, draws and entropy of categorical distributions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import fast_memory, processes
from dmmd_jax.diffusion.categorical import (
  draw,
  draw_in_fast_memory,
  draw_of_one,
  entropy,
  mean_where,
  truncate,
  uniforms,
)
from tests.diffusion.test_nucleus import on_tpus

# One program for each, in place of many of one operation.
cut = jax.jit(truncate, static_argnames=("temperature", "top_p", "penalty"))
drawn = jax.jit(draw)


def kept(probs, top_p):
  return np.isfinite(cut(np.log(probs), top_p=top_p)).tolist()


def test_top_p_keeps_the_smallest_set_that_reaches_p():
  probs = [[0.1, 0.5, 0.3, 0.1]]
  assert kept(probs, 0.75) == [[False, True, True, False]]
  np.testing.assert_allclose(np.exp(cut(np.log(probs), top_p=0.75)).sum(), 1.0, rtol=1e-6)
  assert kept(probs, 1e-6) == [[False, True, False, False]]
  log_probs = np.log(probs)
  assert truncate(log_probs, top_p=1.0) is log_probs
  # What is as likely as the last one kept is kept, too: no category is preferred for its number.
  ties = [0.4, 0.2, 0.2, 0.2]
  assert all(kept(ties, 0.5))
  assert kept(ties, 0.3) == [True, False, False, False]


@pytest.mark.parametrize("num_categories", [2, 27, 256, 5000])
def test_top_p_keeps_what_a_sort_in_float64_would(num_categories):
  rng, top_ps = np.random.default_rng(num_categories), (0.05, 0.5, 0.9, 0.999)
  logits = 6.0 * rng.random((50, 1)) * rng.normal(size=(50, num_categories))
  every = lambda logits: [truncate(jax.nn.log_softmax(logits), top_p=top_p) for top_p in top_ps]
  p = np.exp(np.asarray(logits, np.float32).astype(np.float64))
  p /= p.sum(-1, keepdims=True)
  order = np.argsort(-p, axis=-1)
  before = np.cumsum(np.take_along_axis(p, order, -1), -1) - np.take_along_axis(p, order, -1)
  for top_p, found in zip(top_ps, jax.jit(every)(logits), strict=True):
    expected = np.zeros(p.shape, bool)
    np.put_along_axis(expected, order, before < top_p, -1)
    # Where float32 cannot tell whether the mass is reached, either will do.
    sure = (np.abs(before - top_p) > 1e-6).all(-1)
    assert sure.sum() > 5
    np.testing.assert_array_equal(np.isfinite(found)[sure], expected[sure])
  assert "sort" not in str(jax.make_jaxpr(every)(logits))


def test_what_top_p_excludes_has_the_gradient_of_a_constant():
  log_probs = np.log([0.6, 0.3, 0.1])
  of_first = jax.jit(jax.grad(lambda x: truncate(x, top_p=0.5, penalty=2.0)[0]))(log_probs)
  p = np.array([0.6, 0.3 * np.exp(-2.0), 0.1 * np.exp(-2.0)])
  np.testing.assert_allclose(of_first, [1.0, 0.0, 0.0] - p / p.sum(), rtol=1e-5)


def test_finite_penalty_lowers_excluded_categories_by_a_constant():
  log_probs = np.log([0.6, 0.3, 0.1])
  penalised = np.asarray(cut(log_probs, top_p=0.5, penalty=2.0))
  np.testing.assert_allclose(
    penalised[0] - penalised[1], log_probs[0] - log_probs[1] + 2.0, rtol=1e-5
  )


def test_temperature_divides_log_probabilities():
  cold = cut(np.log([0.8, 0.2]), temperature=0.5)
  np.testing.assert_allclose(np.exp(cold), [0.64 / 0.68, 0.04 / 0.68], rtol=1e-5)


def test_mean_entropy_ignores_inactive_positions_and_certain_categories():
  entropies = jax.jit(entropy)(np.array([[0.0, -np.inf], np.log([0.5, 0.5])]))
  np.testing.assert_allclose(entropies, [0.0, np.log(2.0)])
  mean = jax.jit(mean_where)
  assert mean(entropies, np.array([False, True])) == entropies[1]
  assert mean(entropies, np.array([False, False])) == 0


def test_temperature_comes_before_top_p_and_the_penalty_after():
  log_probs = np.log([0.5, 0.5])
  assert truncate(log_probs) is log_probs
  # The penalty falls on what is left of the tempered law, and by default excludes.
  log_probs = np.log([0.5, 0.3, 0.2])
  cold = np.array([0.25, 0.09, 0.04 * np.exp(-1.0)])  # 0.25 / 0.38 does not reach 0.7 alone
  found = cut(log_probs, temperature=0.5, top_p=0.7, penalty=1.0)
  np.testing.assert_allclose(np.exp(found), cold / cold.sum(), rtol=1e-5)
  np.testing.assert_allclose(np.exp(cut(log_probs, 1.0, 0.4)), [1.0, 0.0, 0.0])


# Of one law they share its masses.
draws_of_one_law = jax.jit(jax.vmap(draw, (None, 0)))


@pytest.mark.parametrize("num", [1, 27, 32, 33, 256, 1025])
def test_draws_follow_the_law(num):
  """By chi-squared; runs of categories that are full, not full, and impossible ones."""
  probs = np.random.default_rng(num).random(num) ** 3
  probs[1::5] = 0.0
  probs /= probs.sum()
  n = 20_000
  with np.errstate(divide="ignore"):
    x = draws_of_one_law(np.log(probs), uniforms(jax.random.key(0), (n,)))
  assert x.dtype == jnp.int32
  counts = np.bincount(x, minlength=num)
  assert len(counts) == num and not counts[probs == 0].any()
  expected = n * probs[probs > 0]
  chi2 = ((counts[probs > 0] - expected) ** 2 / expected).sum()
  freedom = max(len(expected) - 1, 1)
  assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def prior_of(probs, n):
  process = processes.Marginal(len(probs), probs=tuple(probs.tolist()))
  return process.sample_prior(jax.random.key(1), (n,))


@pytest.mark.parametrize(
  "draws",
  [lambda probs, n: draws_of_one_law(np.log(probs), uniforms(jax.random.key(1), (n,))), prior_of],
  ids=["draw", "draw_of_one"],
)
def test_rare_tokens_of_a_large_vocabulary_come_as_often_as_they_should(draws):
  """Half of the mass is that of 50,000 tokens, each with a chance of a hundred-thousandth."""
  num, n = 50_257, 10_240
  probs = np.full(num, 0.5 / 50_000)
  probs[:: num // 256][:257] = 0.5 / 257
  x = np.asarray(draws(probs / probs.sum(), n))
  rare = probs[x] < 1e-4
  share = (probs[probs < 1e-4]).sum() / probs.sum()
  assert abs(rare.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(x))
  # Uniform among themselves: quarters of the vocabulary, and places in a run.
  for part, parts in ((x[rare] * 4 // num, 4), (x[rare] % 128 // 16, 8)):
    counts = np.bincount(part, minlength=parts)
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < parts + 5 * np.sqrt(2 * parts)


def test_nothing_impossible_is_drawn_at_the_edges():
  """Where prefix sums round up and down, and at the largest and smallest uniform number."""
  rng = np.random.default_rng(0)
  probs = rng.random((4000, 300)) * (rng.random((4000, 300)) < 0.2)
  probs /= probs.sum(-1, keepdims=True)
  with np.errstate(divide="ignore"):
    log_probs = np.log(probs)
  for u in (0.0, 1.0 - 2.0**-24):
    x = np.asarray(drawn(log_probs, np.full((4000, 2), u, np.float32)))
    assert (np.take_along_axis(probs, x[:, None], -1) > 0).all()
    possible = [np.flatnonzero(row) for row in probs]
    expected = [row[0 if u == 0.0 else -1] for row in possible]
    np.testing.assert_array_equal(x, expected)


def test_draws_do_not_carry_a_gradient():
  u = np.random.default_rng(0).random((5, 2))
  total = lambda x: draw(jax.nn.log_softmax(x), u).astype(float).sum()
  assert not np.any(jax.jit(jax.grad(total))(np.ones((5, 3))))


@pytest.mark.parametrize("shape", [(3, 5, 1280), (2, 16, 2048)])
def test_the_kernel_draws_what_the_plain_code_draws(shape, monkeypatch):
  monkeypatch.setattr(fast_memory, "_BLOCK_BYTES", 8 * 4 * shape[-1])  # 8 rows; the last are fewer
  rng = np.random.default_rng(1)
  logits = 3.0 * rng.normal(size=shape)
  # Impossible are runs of 128, single categories, and all but one.
  possible = rng.random(shape) < 0.5
  possible[..., 128:256] = False
  possible[0, 0] = False
  possible[..., -1] = True
  log_probs = np.where(possible, logits - np.log(np.exp(logits).sum(-1, keepdims=True)), -np.inf)
  log_probs[0, 0, -1] = 0.0
  in_kernel = jax.jit(functools.partial(draw_in_fast_memory, interpret=True))
  for _ in range(3):
    u = rng.random((*shape[:-1], 2), np.float32)
    found = in_kernel(log_probs, u)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, drawn(log_probs, u))
    assert found[0, 0] == shape[-1] - 1
  # Rounding decides between the last categories, but must not leave the possible ones.
  ends = np.stack([np.zeros(shape[:-1]), np.full(shape[:-1], 1 - 2.0**-23)], -1)
  for u in (ends, ends[..., ::-1]):
    found = np.asarray(in_kernel(log_probs, u))
    assert np.isfinite(np.take_along_axis(log_probs, found[..., None], -1)).all()


def test_a_tpu_draws_in_the_kernel_from_large_vocabularies():
  u = jnp.full((8, 4, 2), 0.5)
  primitives = lambda num, **where: on_tpus(lambda x: draw(x, u), num, **where)
  assert "pallas_call" in primitives(2048) and "shard_map" in primitives(2048)
  assert "pallas_call" not in primitives(2048, platform="cpu")
  assert "pallas_call" not in primitives(256)
  assert "pallas_call" not in primitives(2000)  # not whole runs


def test_one_law_can_draw_every_token_that_float32_has_a_number_for():
  """By a single uniform number of 23 bits most tokens of a chance of 1e-8 are never drawn."""
  num = 50_257
  probs = np.full(num, 1e-8)
  probs[0] = 1.0
  u = uniforms(jax.random.key(0), (400_000,))
  x = np.asarray(jax.jit(draw_of_one)(jnp.asarray(probs, jnp.float32), u))
  rare = x[x > 0]
  expected = len(x) * probs[1:].sum() / probs.sum()
  assert abs(len(rare) - expected) < 5 * np.sqrt(expected)
  # All are as likely. Drawn with one number, most of those that come are even.
  odd = (rare % 2).mean()
  assert abs(odd - 0.5) < 4 * 0.5 / np.sqrt(len(rare))
