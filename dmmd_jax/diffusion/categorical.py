"""Categorical distributions: temperature and top-p, draws, entropy."""

import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from dmmd_jax import parallel
from dmmd_jax.diffusion import fast_memory
from dmmd_jax.diffusion.fast_memory import LANES, LARGE
from dmmd_jax.diffusion.nucleus import smallest_kept
from dmmd_jax.positions import KEPT

# Categories of a run, by which draws are made in two steps, where there are few; else `LANES`.
_RUN = 32


@jax.named_scope("vocabulary")
def truncate(
  log_probs: jax.Array, temperature: float = 1.0, top_p: float = 1.0, penalty: float = math.inf
) -> jax.Array:
  """Tempers and truncates log-probabilities `[..., K]`; returns normalised log-probabilities.

  Top-p keeps the likeliest categories until their mass reaches `top_p`, at least one, and all that
  are as likely as the last of them; the others lose `penalty` nats. Sampling takes infinity; a
  teacher to distil takes a finite constant, since the loss would diverge on excluded categories
  (D-MMD, section 3.3).
  """
  if temperature != 1.0:
    log_probs = jax.nn.log_softmax(log_probs / temperature)
  if top_p < 1.0:
    probs = jnp.exp(log_probs)
    fixed = jax.lax.stop_gradient(probs)
    kept = fixed >= checkpoint_name(smallest_kept(fixed, top_p), KEPT)
    mass = jnp.where(kept, probs, math.exp(-penalty) * probs).sum(-1, keepdims=True)
    log_probs = jnp.where(kept, log_probs, log_probs - penalty) - jnp.log(mass)
  return log_probs


@jax.named_scope("vocabulary")
def draw(log_probs: jax.Array, u: jax.Array) -> jax.Array:
  """Tokens int32 `[...]` of log-probabilities `[..., K]`, at `uniforms(key, [...])`.

  First a run of categories by its mass, then a category of that run, each where the cumulative mass
  passes a uniform number. Gumbel noise would need a random number per category, and in float32 it
  draws rare categories too seldom (arXiv 2409.02908).
  """
  log_probs = jax.lax.stop_gradient(log_probs)
  if fast_memory.is_there(log_probs) and log_probs.shape[-1] % LANES == 0:
    return parallel.split_examples(draw_in_fast_memory, log_probs, u)
  num, run = log_probs.shape[-1], _run_of(log_probs)
  probs = jnp.exp(log_probs)
  window = (1,) * (probs.ndim - 1) + (run,)
  padding = [(0, 0)] * (probs.ndim - 1) + [(0, -num % run)]
  runs = jax.lax.reduce_window(probs, 0.0, jax.lax.add, window, window, padding)
  begin = run * _first_above(runs, u[..., 0])
  places = begin[..., None] + jnp.arange(run)
  of_run = jnp.take_along_axis(probs, places, -1, mode="fill", fill_value=0.0)
  return begin + _first_above(of_run, u[..., 1])


def draw_of_one(probs: jax.Array, u: jax.Array) -> jax.Array:
  """Tokens int32 `[...]`, all of one law of positive probabilities `[K]`, at `u` as in `draw`."""
  run = _run_of(probs)
  runs = jnp.pad(probs, (0, -len(probs) % run)).reshape(-1, run)
  mass = jnp.cumsum(runs.sum(-1))
  begin = jnp.searchsorted(mass, mass[-1] * u[..., 0], side="right").astype(jnp.int32)
  return run * begin + _first_above(runs[begin], u[..., 1])


def _run_of(probs: jax.Array) -> int:
  """How many categories, of the last axis, are a run of the first of two steps."""
  num = probs.shape[-1]
  return LANES if num > LARGE else min(num, _RUN)


def draw_in_fast_memory(log_probs: jax.Array, u: jax.Array, interpret: bool = False) -> jax.Array:
  """`draw` on one TPU, of a multiple of 128 categories; `interpret` runs it on a CPU."""
  tokens = fast_memory.map_rows(_draw_rows, log_probs, u, dtype=jnp.int32, interpret=interpret)
  return tokens[..., 0]


def _draw_rows(log_probs, u):
  """Tokens `[n, 1]` of references to log-probabilities `[n, K]` and uniform numbers `[n, 2]`."""
  from jax.experimental import pallas

  num, size = log_probs.shape[0], log_probs.shape[1] // LANES

  def probs_of(run):
    return jnp.exp(log_probs[:, pallas.ds(pallas.multiple_of(run * LANES, LANES), LANES)])

  def mass_of(run, below):
    return below + probs_of(run).sum(-1, keepdims=True)

  def choose(run, state):
    below, chosen, probs = state
    above = mass_of(run, below)
    # The masses are summed as for the total, so that the last of them is above any part of it.
    is_first = (chosen < 0) & (above > target)
    return above, jnp.where(is_first, run, chosen), jnp.where(is_first, probs_of(run), probs)

  nothing = jnp.zeros((num, 1), jnp.float32)
  target = u[:, 0:1] * jax.lax.fori_loop(0, size, mass_of, nothing)
  state = nothing, jnp.full((num, 1), -1, jnp.int32), jnp.zeros((num, LANES), jnp.float32)
  _, run, probs = jax.lax.fori_loop(0, size, choose, state)
  lane = jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), 1)
  is_before = jax.lax.broadcasted_iota(jnp.int32, (LANES, LANES), 0) <= lane
  cumulative = jnp.dot(probs, is_before.astype(jnp.float32), precision="highest")
  cumulative = jnp.where(probs > 0.0, cumulative, 0.0)
  is_above = cumulative > u[:, 1:2] * cumulative.max(-1, keepdims=True)
  first = jnp.where(is_above, lane[:1], LANES).min(-1, keepdims=True)
  return run * LANES + first


def uniforms(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """What `draw` needs for tokens of `shape`: two numbers in [0, 1) for each of them."""
  return jax.random.uniform(key, (*shape, 2))


def _first_above(mass: jax.Array, u: jax.Array) -> jax.Array:
  """The first of masses `[..., n]` at which their cumulative sum exceeds its part `u` `[...]`."""
  cumulative, possible = jnp.cumsum(mass, -1), mass > 0.0
  # Prefix sums need not grow monotonically by a rounding error, which must draw nothing impossible.
  total = jnp.where(possible, cumulative, 0.0).max(-1)
  return jnp.argmax(possible & (cumulative > (u * total)[..., None]), -1).astype(jnp.int32)


@jax.named_scope("vocabulary")
def entropy(log_probs: jax.Array) -> jax.Array:
  """Entropy in nats of log-probabilities `[..., K]`, `[...]`."""
  return -(jnp.exp(log_probs) * jnp.maximum(log_probs, -1e4)).sum(-1)


def kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
  """`KL(p || q)` in nats of log-probabilities `[..., K]`, `[...]`."""
  return (jnp.exp(log_p) * (log_p - log_q)).sum(-1)


def log_prob_of(log_probs: jax.Array, x: jax.Array) -> jax.Array:
  """Log-probabilities `[...]` of tokens int `[...]` under those of all, `[..., K]`."""
  return jnp.take_along_axis(log_probs, x[..., None], -1)[..., 0]


def mean_where(values: jax.Array, where: jax.Array) -> jax.Array:
  """The mean of `values` `[...]` where a bool `[...]` holds; 0 where it nowhere does."""
  return jnp.where(where, values, 0.0).sum() / jnp.maximum(where.sum(), 1)
