"""Sampling: what all samplers have around their step.

Grids of times, the last step, temperature and top-p, prompts and paths are here; blocks are in
`blocks.py`, and guidance is in the prediction.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import mean_where, uniforms
from dmmd_jax.diffusion.processes import Masked, Process
from dmmd_jax.diffusion.samplers.ancestral import Ancestral
from dmmd_jax.diffusion.samplers.grids import Even
from dmmd_jax.diffusion.samplers.sampler import Moment, Sampler, read
from dmmd_jax.positions import Deferred, map_positions

# predict(z_t, t, key) -> log E[x | z_t], float32 [B, ..., K]
Predict = Callable[[jax.Array, jax.Array, jax.Array], jax.Array | Deferred]


class Samples(NamedTuple):
  """Tokens `[B, ...]` and the mean entropy (nats) of the predictions that they were drawn from.

  `path` `[steps + 1, B, ...]` are the states `z_t` from the start to the tokens, if asked for.
  `spent` float32 `[B]` are the steps that evaluated the network for an example, of a sampler that
  decides on it.
  """

  tokens: jax.Array
  entropy: jax.Array
  path: jax.Array | None = None
  spent: jax.Array | None = None


class Prompt(NamedTuple):
  """Tokens int `[B or 1, ...]` that are given where `is_known`, and to be drawn elsewhere."""

  tokens: jax.Array
  is_known: jax.Array

  def put(self, z: jax.Array) -> jax.Array:
    """Tokens or states `z` `[B, ...]` with the prompt in its place."""
    return jnp.where(self.is_known, self.tokens, z)

  def shown(self, predict: Predict, process: Process) -> Predict:
    """`predict` of states in which the prompt is as a network has seen clean tokens in training.

    It is visible in masked diffusion, which is exact, and corrupted like the rest in any other.
    """

    def predict_with_prompt(z, t, key):
      seen = self.tokens
      if not isinstance(process, Masked):
        key, corrupt_key = jax.random.split(key)
        seen = process.corrupt(corrupt_key, self.tokens, t)
      return predict(jnp.where(self.is_known, seen, z), t, key)

    return predict_with_prompt


class _State(NamedTuple):
  """Between steps: `z_t`, the sampler's memory, entropies summed over evaluations, their numbers.

  `spent` `[B]` are those of each example, `evaluations` those of the batch.
  """

  z: jax.Array
  memory: Any
  entropy: jax.Array
  spent: jax.Array
  evaluations: jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
  """A sampler on a grid of times; at the last step it may take the likeliest tokens.

  Within a `vmap` over batches, evaluations are left out where none of them needs one if `beside` is
  the name of its axis.
  """

  sampler: Sampler = Ancestral()
  grid: Even = Even()
  ends_greedily: bool = False
  beside: str = dataclasses.field(default="", repr=False)

  def __call__(
    self,
    predict: Predict,
    process: Process,
    key: jax.Array,
    shape: tuple[int, ...],
    nfe: int | jax.Array,
    temperature: float = 1.0,
    top_p: float = 1.0,
    with_path: bool = False,
    prompt: Prompt | None = None,
  ) -> Samples:
    """Draws tokens of `shape` `[B, ...]` in `nfe` evaluations of `predict`, or fewer if adaptive.

    `nfe` may be traced, so that one program serves all numbers of steps, but not with a path.
    """
    prior_key, run_key = jax.random.split(key)
    z_1 = process.sample_prior(prior_key, shape)
    how = temperature, top_p, with_path, prompt
    return self.finish(predict, process, run_key, z_1, jnp.ones(shape[:1]), nfe, *how)

  def finish(
    self,
    predict: Predict,
    process: Process,
    key: jax.Array,
    z: jax.Array,
    t_start: jax.Array,
    nfe: int | jax.Array,
    temperature: float = 1.0,
    top_p: float = 1.0,
    with_path: bool = False,
    prompt: Prompt | None = None,
  ) -> Samples:
    """Samples from `z` int `[B, ...]` at times `t_start` `[B]` down to 0."""
    if prompt:
      predict = prompt.shown(predict, process)
      z = prompt.put(z) if isinstance(process, Masked) else z
    reading = functools.partial(
      read, wanted=self.sampler.reads, temperature=temperature, top_p=top_p
    )
    step = functools.partial(
      self._step, predict, process, key, t_start, nfe, reading=reading, prompt=prompt
    )
    start = self.sampler.time(process.schedule, t_start)
    memory = self.sampler.start(process, z.reshape(len(z), -1), start)
    zero = jnp.zeros(())
    state, path = _State(z, memory, zero, jnp.zeros(len(z)), zero), None
    if with_path:

      def step_and_keep(state, i):
        state = step(state, i)
        return state, state.z

      state, states = jax.lax.scan(step_and_keep, state, jnp.arange(nfe))
      path = jnp.concatenate([z[None], states])
    else:
      state = jax.lax.fori_loop(0, nfe, lambda i, state: step(state, i), state)
    adaptive = self.sampler.is_adaptive
    number = jnp.maximum(state.evaluations, 1.0) if adaptive else nfe
    tokens = prompt.put(state.z) if prompt else state.z
    return Samples(tokens, state.entropy / number, path, state.spent if adaptive else None)

  def _step(self, predict, process, key, t_start, nfe, state, i, reading, prompt) -> _State:
    sampler, z = self.sampler, state.z
    t, s = (
      sampler.time(process.schedule, self.grid(process.schedule, t_start, left, nfe))
      for left in (nfe - i, nfe - i - 1)
    )
    predict_key, x_key, z_key = jax.random.split(jax.random.fold_in(key, i), 3)
    is_last = i == nfe - 1
    flat = lambda x: x.reshape(len(z), -1)
    is_free = ~flat(jnp.broadcast_to(prompt.is_known if prompt else False, z.shape))
    moment = Moment(flat(z), t, s, is_free, is_last, z_key)
    greedy = sampler.is_greedy or (is_last if self.ends_greedily else False)

    def evaluate():
      log_x = predict(z, sampler.asked_at(process, moment), predict_key)
      read_position = functools.partial(reading, greedy=greedy)
      found = map_positions(read_position, log_x, uniforms(x_key, z.shape))
      mean_entropy = mean_where(found.entropy, process.active(z))
      z_s, memory = sampler.step(process, moment, jax.tree.map(flat, found), state.memory)
      z_s = z_s.reshape(z.shape)
      z_s = prompt.put(z_s) if prompt and isinstance(process, Masked) else z_s
      return z_s, memory, state.entropy + mean_entropy

    if not sampler.is_adaptive:
      return _State(*evaluate(), state.spent, state.evaluations)
    needed = sampler.needs(process, moment, state.memory)
    # Under `vmap` it is to stay one branch, not a choice between the results of both.
    number = needed.sum()
    number = jax.lax.psum(number, self.beside) if self.beside else number
    changed = jax.lax.cond(number > 0, evaluate, lambda: (z, state.memory, state.entropy))
    return _State(*changed, state.spent + needed, state.evaluations + needed.any())


ancestral_sample = Sampling()
finish_sample = ancestral_sample.finish
