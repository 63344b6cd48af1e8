"""What a sampler is: a value with one step, from `z_t` to `z_s`, given what a network predicts.

Arrays of positions are `[B, N]`, whatever the shape of an example; `jnp.ones(N)` stands for all.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import draw, entropy, log_prob_of, truncate
from dmmd_jax.diffusion.processes import Process
from dmmd_jax.diffusion.schedules import Schedule


class Moment(NamedTuple):
  """Where a step begins: states `z` int `[B, N]`, times `[B]` with `s <= t`, and a key.

  `is_free` bool `[B, N]` is False at the tokens of a prompt; `is_last` is a scalar bool.
  """

  z: jax.Array
  t: jax.Array
  s: jax.Array
  is_free: jax.Array
  is_last: jax.Array
  key: jax.Array


class Reading(NamedTuple):
  """What a step is told of a prediction, `[B, N]`: nothing that has an axis of the vocabulary.

  A clean token `x` for each position, drawn or the likeliest, the entropy in nats of the law that
  it is from, and where a sampler `reads` them: the log-probability of `x`, and the `margin` by
  which the likeliest token is more probable than the next.
  """

  x: jax.Array
  entropy: jax.Array
  log_prob: jax.Array | None = None
  margin: jax.Array | None = None


@jax.named_scope("vocabulary")
def read(
  log_probs: jax.Array,
  u: jax.Array,
  greedy: bool | jax.Array = False,
  wanted: tuple[str, ...] = (),
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> Reading:
  """Reads log-probabilities `[..., K]`, after temperature and top-p; `u` is as `draw` has it.

  `x` is the likeliest token where `greedy`, which may be traced.
  """
  log_probs = truncate(log_probs, temperature, top_p)
  x = None if greedy is True else draw(log_probs, u)
  if greedy is not False:
    likeliest = jnp.argmax(log_probs, -1).astype(jnp.int32)
    x = likeliest if x is None else jnp.where(greedy, likeliest, x)
  return Reading(
    x,
    entropy(log_probs),
    log_prob_of(log_probs, x) if "log_prob" in wanted else None,
    margin(log_probs) if "margin" in wanted else None,
  )


def margin(log_probs: jax.Array) -> jax.Array:
  """By how much the likeliest category of `[..., K]` is more probable than the next, `[...]`."""
  is_first = jnp.arange(log_probs.shape[-1]) == jnp.argmax(log_probs, -1)[..., None]
  second = jnp.where(is_first, -jnp.inf, log_probs).max(-1)
  return jnp.exp(log_probs.max(-1)) - jnp.exp(second)


@dataclasses.dataclass(frozen=True)
class Sampler:
  """What all samplers share; the fields of one are its settings.

  `processes` are those that it is for, by their names in a config. One that `is_adaptive` decides
  for itself how many evaluations an example takes, up to the number of steps that is asked for.
  """

  processes = ("masked",)
  is_adaptive = False
  # Whether predictions decide it: complete before the last step, and masked as no grid says.
  stops_early = False

  @property
  def reads(self) -> tuple[str, ...]:
    """What it wants to know of a prediction beside `x` and entropy."""
    return ()

  @property
  def is_greedy(self) -> bool:
    """Whether `x` is the likeliest token at all steps."""
    return False

  def time(self, schedule: Schedule, t: jax.Array) -> jax.Array:
    """The time of the process at a time of the grid."""
    del schedule
    return t

  def asked_at(self, process: Process, m: Moment) -> jax.Array:
    """The times `[B]` that a network is told: where as many are masked, of those not given."""
    if not self.stops_early:
      return m.t
    share = process.active(m.z).sum(1) / jnp.maximum(m.is_free.sum(1), 1)
    # No time at which nothing is masked: some networks have its logarithm.
    return process.schedule.time_at(jnp.maximum(share, 1 / m.z.shape[1]))

  def start(self, process: Process, z: jax.Array, t: jax.Array) -> Any:
    """What it remembers from step to step, from states `[B, N]` at the first time."""
    del process, z, t
    return ()

  def needs(self, process: Process, m: Moment, memory: Any) -> jax.Array:
    """Which examples, bool `[B]`, a step might change; asked of those that are adaptive."""
    raise NotImplementedError

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    """`z_s` `[B, N]`, and what it remembers then."""
    raise NotImplementedError

  def problems(self, config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    """What does not go together in a config whose examples are `shape`, a sentence each."""
    del config, shape
    return iter(())
