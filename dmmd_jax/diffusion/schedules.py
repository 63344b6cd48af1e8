"""Noise schedules: how much of a clean token is left at time `t`."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp


class Schedule(Protocol):
  """A decreasing `alpha` on `[0, 1]` with `alpha(0) = 1` and `alpha(1) = 0`.

  `beta = 1 - alpha` has a method of its own because the subtraction has no correct digit left
  in float32 near `t = 0`; for the same reason `alpha` is not `1 - beta` near `t = 1`.
  All methods map float32 `[...]` to float32 `[...]`.
  """

  def alpha(self, t: jax.Array) -> jax.Array: ...

  def beta(self, t: jax.Array) -> jax.Array: ...

  def alpha_prime(self, t: jax.Array) -> jax.Array: ...

  def time_at(self, beta: jax.Array) -> jax.Array:
    """The inverse of `beta`."""


@dataclasses.dataclass(frozen=True)
class Linear:
  """`alpha = 1 - t`."""

  def alpha(self, t: jax.Array) -> jax.Array:
    return 1.0 - t

  def beta(self, t: jax.Array) -> jax.Array:
    return t

  def alpha_prime(self, t: jax.Array) -> jax.Array:
    return -jnp.ones_like(t)

  def time_at(self, beta: jax.Array) -> jax.Array:
    return beta


@dataclasses.dataclass(frozen=True)
class Cosine:
  """`alpha = 1 - cos(pi/2 (1 - t))`, the masked-image schedule of MD4 (arXiv 2406.04329)."""

  def alpha(self, t: jax.Array) -> jax.Array:
    return jnp.where(t < 0.5, 1.0 - self.beta(t), 2.0 * jnp.sin(jnp.pi / 4 * (1.0 - t)) ** 2)

  def beta(self, t: jax.Array) -> jax.Array:
    return jnp.sin(jnp.pi / 2 * t)

  def alpha_prime(self, t: jax.Array) -> jax.Array:
    # Not the cosine of t, which in float32 is below 0 at t = 1.
    return -jnp.pi / 2 * jnp.sin(jnp.pi / 2 * (1.0 - t))

  def time_at(self, beta: jax.Array) -> jax.Array:
    return 2 / jnp.pi * jnp.arcsin(beta)


@dataclasses.dataclass(frozen=True)
class Polynomial:
  """`alpha = 1 - t ** power`."""

  power: float = 2.0

  def alpha(self, t: jax.Array) -> jax.Array:
    return -jnp.expm1(self.power * jnp.log(t))

  def beta(self, t: jax.Array) -> jax.Array:
    return t**self.power

  def alpha_prime(self, t: jax.Array) -> jax.Array:
    # Below power 1 the slope is infinite at 0.
    return -self.power * jnp.maximum(t, 1e-12) ** (self.power - 1.0)

  def time_at(self, beta: jax.Array) -> jax.Array:
    return beta ** (1.0 / self.power)
