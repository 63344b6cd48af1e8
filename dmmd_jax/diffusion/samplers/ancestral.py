"""Ancestral sampling: each step is one of the reverse process."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.processes import Process
from dmmd_jax.diffusion.samplers.sampler import Moment, Reading, Sampler
from dmmd_jax.rules import Flag, setting


@dataclasses.dataclass(frozen=True)
class Ancestral(Sampler):
  """`x ~ Cat(E[x | z_t])`, then `z_s ~ q(z_s | z_t, x)` (D-MMD, arXiv 2603.20155, section 2).

  Which masks are lifted does not depend on the prediction. Where a step lifts none, nothing of it
  would be used: to `skip` it draws the same tokens in fewer evaluations, whatever the network.
  """

  skip: bool = setting(
    False, Flag(), "Masked: leaves out evaluations that would reveal nothing; the same tokens."
  )

  processes = ("masked", "uniform", "marginal")

  @property
  def is_adaptive(self) -> bool:
    return self.skip

  def needs(self, process: Process, m: Moment, memory: Any) -> jax.Array:
    revealed = process.sample_posterior(m.key, m.z, jnp.zeros_like(m.z), m.s, m.t)
    return (revealed != m.z).any(1)

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    return process.sample_posterior(m.key, m.z, reading.x, m.s, m.t), memory

  def problems(self, config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    if self.skip and config.process.name != "masked":
      yield (
        f"ancestral.skip is True and process.name is {config.process.name!r}; every step"
        " may change any token there: set it to False"
      )
