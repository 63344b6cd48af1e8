"""Grids of times: where the steps of a sampler stand between its start and 0."""

import dataclasses
import math

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.schedules import Schedule


@dataclasses.dataclass(frozen=True)
class Even:
  """Steps of one size; the others bend it by an increasing map of `[0, 1]` onto itself."""

  def __call__(
    self, schedule: Schedule, start: jax.Array, left: jax.Array, total: int | jax.Array
  ) -> jax.Array:
    """The time at which `left` of `total` steps are left, shaped like `start`, that of all."""
    del schedule
    return start * left / total


@dataclasses.dataclass(frozen=True)
class Cosine(Even):
  """Small steps first: `sin(pi/2 u)` (MaskGIT, arXiv 2202.04200)."""

  def __call__(self, schedule, start, left, total):
    return start * jnp.sin(jnp.pi / 2 * left / total)


@dataclasses.dataclass(frozen=True)
class LogSNR(Even):
  """Even in `log(alpha / beta)` from `-limit` to `limit`, stretched to reach 1 and 0."""

  limit: float = math.log(99.0)

  def __call__(self, schedule, start, left, total):
    beta = jax.nn.sigmoid(self.limit * (2.0 * left / total - 1.0))
    low, high = (1.0 / (1.0 + math.exp(x)) for x in (self.limit, -self.limit))
    return start * schedule.time_at(jnp.clip((beta - low) / (high - low), 0.0, 1.0))


@dataclasses.dataclass(frozen=True)
class Own(Even):
  """Through given `times`, from 1 down to 0 and evenly spaced over the steps; straight between."""

  times: tuple[float, ...] = (1.0, 0.0)

  def __call__(self, schedule, start, left, total):
    places = jnp.linspace(0.0, 1.0, len(self.times))
    return start * jnp.interp(left / total, places, jnp.asarray(self.times[::-1]))


GRIDS = {"even": Even, "cosine": Cosine, "log_snr": LogSNR, "own": Own}
