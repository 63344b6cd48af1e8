"""Token after token, by a model that predicts the next one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import uniforms
from dmmd_jax.diffusion.samplers.sampler import read
from dmmd_jax.diffusion.samplers.sampling import Samples


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
    found = read(log_probs, u, temperature=temperature, top_p=top_p)
    return (memory, found.x), (found.x, found.entropy.mean())

  start = memory, jnp.full(shape[:1], -1, jnp.int32)
  _, (tokens, entropies) = jax.lax.scan(step, start, jnp.arange(shape[1]))
  return Samples(tokens.T, entropies.mean())
