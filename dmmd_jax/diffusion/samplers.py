"""Ancestral sampling, with temperature and top-p."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import draw, entropy, mean_where, truncate, uniforms
from dmmd_jax.diffusion.processes import Process
from dmmd_jax.positions import Deferred, map_positions

# predict(z_t, t, key) -> log E[x | z_t], float32 [B, ..., K]
Predict = Callable[[jax.Array, jax.Array, jax.Array], jax.Array | Deferred]


class Samples(NamedTuple):
  """Tokens `[B, ...]` and the mean entropy (nats) of the predictions that they were drawn from.

  `path` `[steps + 1, B, ...]` are the states `z_t` from the start to the tokens, if asked for.
  """

  tokens: jax.Array
  entropy: jax.Array
  path: jax.Array | None = None


def ancestral_sample(
  predict: Predict,
  process: Process,
  key: jax.Array,
  shape: tuple[int, ...],
  nfe: int | jax.Array,
  temperature: float = 1.0,
  top_p: float = 1.0,
  with_path: bool = False,
) -> Samples:
  """Draws tokens of `shape` `[B, ...]` in `nfe` evaluations of `predict`, on an even grid of times.

  Each step draws `x ~ Cat(E[x | z_t])`, then `z_s ~ q(z_s | z_t, x)` (D-MMD, section 2). `nfe` may
  be traced, so that one program serves all numbers of steps, but not with a path.
  """
  prior_key, run_key = jax.random.split(key)
  z_1 = process.sample_prior(prior_key, shape)
  t_start = jnp.ones(shape[:1])
  return finish_sample(predict, process, run_key, z_1, t_start, nfe, temperature, top_p, with_path)


def finish_sample(
  predict: Predict,
  process: Process,
  key: jax.Array,
  z: jax.Array,
  t_start: jax.Array,
  nfe: int | jax.Array,
  temperature: float = 1.0,
  top_p: float = 1.0,
  with_path: bool = False,
) -> Samples:
  """Ancestral sampling from `z` int `[B, ...]` at times `t_start` `[B]` down to 0."""
  draw_position = functools.partial(_draw, temperature=temperature, top_p=top_p)

  def step(z_t, i):
    t = t_start * (nfe - i) / nfe
    s = t_start * (nfe - i - 1) / nfe
    predict_key, x_key, z_key = jax.random.split(jax.random.fold_in(key, i), 3)
    log_x = predict(z_t, t, predict_key)
    x, entropies = map_positions(draw_position, log_x, uniforms(x_key, z_t.shape))
    z_s = process.sample_posterior(z_key, z_t, x, s, t)
    return z_s, mean_where(entropies, process.active(z_t))

  def step_and_sum(i, carry):
    z_t, total = carry
    z_s, mean_entropy = step(z_t, i)
    return z_s, total + mean_entropy

  if not with_path:
    z_0, total = jax.lax.fori_loop(0, nfe, step_and_sum, (z, jnp.zeros(())))
    return Samples(z_0, total / nfe)

  def step_and_keep(z_t, i):
    z_s, mean_entropy = step(z_t, i)
    return z_s, (mean_entropy, z_s)

  z_0, (entropies, states) = jax.lax.scan(step_and_keep, z, jnp.arange(nfe))
  return Samples(z_0, entropies.mean(), jnp.concatenate([z[None], states]))


def sample_blocks(
  predict: Callable,
  remember: Callable,
  memory: object,
  process: Process,
  key: jax.Array,
  shape: tuple[int, int],
  num_blocks: int,
  nfe: int,
  temperature: float = 1.0,
  top_p: float = 1.0,
  with_path: bool = False,
) -> Samples:
  """Draws tokens of `shape` `[B, D]` block after block, each in `nfe` evaluations.

  `predict(memory, start, z_t, t, key)` gives `log E[x | z_t]` of the block that begins at token
  `start`, `remember(memory, start, x)` the memory with its clean tokens.
  """
  size = shape[1] // num_blocks

  def step(memory, start):
    drawn = ancestral_sample(
      functools.partial(predict, memory, start),
      process,
      jax.random.fold_in(key, start),
      (shape[0], size),
      nfe,
      temperature,
      top_p,
      with_path,
    )
    return remember(memory, start, drawn.tokens), drawn

  _, drawn = jax.lax.scan(step, memory, size * jnp.arange(num_blocks))
  path = _path_of_blocks(drawn.path) if with_path else None
  return Samples(drawn.tokens.swapaxes(0, 1).reshape(shape), drawn.entropy.mean(), path)


def _path_of_blocks(paths: jax.Array) -> jax.Array:
  """Joins paths `[num_blocks, nfe + 1, B, size]` to `[num_blocks * nfe + 1, B, D]`.

  A block stays at its prior until its turn, and at its tokens afterwards.
  """
  num_blocks, num_states, batch_size, _ = paths.shape
  nfe = num_states - 1
  block, moment = jnp.arange(num_blocks)[:, None], jnp.arange(num_blocks * nfe + 1)
  states = paths[block, jnp.clip(moment - nfe * block, 0, nfe)]
  return jnp.moveaxis(states, 0, 2).reshape(len(moment), batch_size, -1)


def sample_autoregressively(
  predict: Callable,
  memory: object,
  key: jax.Array,
  shape: tuple[int, int],
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> Samples:
  """Draws tokens of `shape` `[B, D]` one by one.

  `predict(memory, i, previous)` gives log-probabilities `[B, K]` of token `i` and the memory with
  token `i - 1`, `previous` `[B]`; before the first token it is -1.
  """

  def step(carry, i):
    memory, previous = carry
    log_probs, memory = predict(memory, i, previous)
    u = uniforms(jax.random.fold_in(key, i), shape[:1])
    token, entropies = _draw(log_probs, u, temperature, top_p)
    return (memory, token), (token, entropies.mean())

  start = memory, jnp.full(shape[:1], -1, jnp.int32)
  _, (tokens, entropies) = jax.lax.scan(step, start, jnp.arange(shape[1]))
  return Samples(tokens.T, entropies.mean())


def _draw(
  log_probs: jax.Array, u: jax.Array, temperature: float, top_p: float
) -> tuple[jax.Array, jax.Array]:
  """Tokens of log-probabilities `[..., K]` as `draw` has them, and the entropies drawn from."""
  log_probs = truncate(log_probs, temperature, top_p)
  return draw(log_probs, u), entropy(log_probs)
