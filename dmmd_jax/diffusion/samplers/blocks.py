"""Block after block: a block is drawn given all those before it, by any sampler."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.processes import Process
from dmmd_jax.diffusion.samplers.sampling import Samples, ancestral_sample


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
  draw: Callable[..., Samples] = ancestral_sample,
) -> Samples:
  """Draws tokens of `shape` `[B, D]` block after block, each in `nfe` evaluations by `draw`.

  `predict(memory, start, z_t, t, key)` gives `log E[x | z_t]` of the block that begins at token
  `start`, `remember(memory, start, x)` the memory with its clean tokens. What an example has spent
  is the mean over its blocks.
  """
  size = shape[1] // num_blocks

  def step(memory, start):
    drawn = draw(
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
  spent = None if drawn.spent is None else drawn.spent.mean(0)
  return Samples(drawn.tokens.swapaxes(0, 1).reshape(shape), drawn.entropy.mean(), path, spent)


def _path_of_blocks(paths: jax.Array) -> jax.Array:
  """Joins paths `[num_blocks, nfe + 1, B, size]` to `[num_blocks * nfe + 1, B, D]`.

  A block stays at its prior until its turn, and at its tokens afterwards.
  """
  num_blocks, num_states, batch_size, _ = paths.shape
  nfe = num_states - 1
  block, moment = jnp.arange(num_blocks)[:, None], jnp.arange(num_blocks * nfe + 1)
  states = paths[block, jnp.clip(moment - nfe * block, 0, nfe)]
  return jnp.moveaxis(states, 0, 2).reshape(len(moment), batch_size, -1)
