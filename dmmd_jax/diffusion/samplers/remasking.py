"""Tokens that were revealed may be masked, or replaced, again: mistakes can be corrected."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.processes import Process, expand
from dmmd_jax.diffusion.samplers.revealing import ALIKE, ranks
from dmmd_jax.diffusion.samplers.sampler import Moment, Reading, Sampler
from dmmd_jax.diffusion.schedules import Schedule
from dmmd_jax.rules import Choice, Real, setting

# Between these times of the grid ReMDM's loop stays where so much of the tokens is visible.
_LOOP_FROM, _LOOP_TO, _LOOP_ALPHA = 0.55, 0.05, 0.9


def remasking_probabilities(
  schedule: Schedule, sigma: jax.Array, s: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Probabilities that a visible token is masked, and that a mask is revealed.

  `sigma` is the first of them, `[B]` or `[B, N]`, where it is possible at all.
  """
  s, t = expand(s, sigma), expand(t, sigma)
  alpha_t, beta_s, beta_t = schedule.alpha(t), schedule.beta(s), schedule.beta(t)
  possible = jnp.minimum(1.0, beta_s / jnp.maximum(alpha_t, 1e-30))
  sigma = jnp.minimum(sigma, possible)
  reveal = (beta_t - beta_s + sigma * alpha_t) / jnp.maximum(beta_t, 1e-30)
  return sigma, reveal


@dataclasses.dataclass(frozen=True)
class ReMDM(Sampler):
  """Ancestral sampling that masks visible tokens again, with probability sigma (arXiv 2503.00307).

  With an exact denoiser a step of `cap`, `rescale` or `loop` gives a position its law at `s`. The
  largest possible sigma is `min(1, (1 - alpha_s) / alpha_t)`. `conf` shares it among the visible
  tokens of an example by softmax(-p), p their probability when they were revealed. `loop` holds
  alpha at 0.9 between the times 0.55 and 0.05 of the grid, and masks there only.
  """

  variant: str = setting(
    "cap",
    Choice(("cap", "rescale", "conf", "loop")),
    "sigma is cap: at most eta | rescale: eta times the largest | conf: the largest, shared by"
    " confidence | loop: at most eta, at a constant alpha.",
  )
  eta: float = setting(0.02, Real("[0, 1]"), "Of cap, rescale and loop; conf has none.")

  @property
  def reads(self) -> tuple[str, ...]:
    return ("log_prob",) if self.variant == "conf" else ()

  def time(self, schedule: Schedule, t: jax.Array) -> jax.Array:
    if self.variant != "loop":
      return t
    held = schedule.time_at(jnp.float32(1.0 - _LOOP_ALPHA))
    above = held + (1.0 - held) * (t - _LOOP_FROM) / (1.0 - _LOOP_FROM)
    return jnp.where(t > _LOOP_FROM, jnp.minimum(above, 1.0), held * jnp.minimum(t / _LOOP_TO, 1.0))

  def start(self, process: Process, z: jax.Array, t: jax.Array) -> Any:
    """Of conf, the probabilities of visible tokens when they were revealed, `[B, N]`."""
    return jnp.ones(z.shape) if self.variant == "conf" else ()

  def sigma(self, process: Process, m: Moment, memory: Any) -> jax.Array:
    """The probability that a visible token is masked, `[B]` or `[B, N]`."""
    largest = process.schedule.beta(m.s) / jnp.maximum(process.schedule.alpha(m.t), 1e-30)
    largest = jnp.minimum(1.0, largest)
    if self.variant == "conf":
      weights = jnp.where(process.active(m.z) | ~m.is_free, 0.0, jnp.exp(-memory))
      shares = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-30)
      return shares * largest[:, None]
    if self.variant == "rescale":
      return self.eta * largest
    capped = jnp.minimum(self.eta, largest)
    return capped if self.variant == "cap" else jnp.where(m.s < m.t, 0.0, capped)

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    sigma = self.sigma(process, m, memory)
    sigma = jnp.broadcast_to(expand(sigma, m.z), m.z.shape)
    mask, reveal = remasking_probabilities(process.schedule, sigma, m.s, m.t)
    masked, u = process.active(m.z), jax.random.uniform(m.key, m.z.shape)
    is_revealed = masked & (u < reveal)
    is_masked_again = ~masked & (u < mask)
    z_s = jnp.where(is_revealed, reading.x, m.z)
    z_s = jnp.where(is_masked_again, process.num_categories, z_s)
    if self.variant == "conf":
      memory = jnp.where(is_revealed, jnp.exp(reading.log_prob), memory)
    return z_s, memory

  def problems(self, config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    if self.variant == "conf" and self.eta != ReMDM.eta:
      yield f"remdm.eta is {self.eta} and remdm.variant 'conf', which has none: leave it out"


@dataclasses.dataclass(frozen=True)
class Psi(Sampler):
  """A predictor-corrector (arXiv 2602.21185; for the marginal process after USD3, 2402.03701):

      kappa q(z_s | z_t, x) + (1 - kappa) q(z_s | x)

  for each position by itself. All of these have the marginals of the process; with `kappa` 1 it is
  ancestral sampling, and with 0 all tokens are corrupted anew. Between the times `begin` and `end`
  it is `kappa`, and 1 elsewhere; a subclass may have any other `kappa_at`.
  """

  kappa: float = setting(0.9, Real("[0, 1]"), "1 is ancestral; the lower, the more is corrected.")
  begin: float = setting(1.0, Real("[0, 1]"), "The time from which it corrects.")
  end: float = setting(0.0, Real("[0, 1]"), "The time down to which it corrects.")

  processes = ("masked", "uniform", "marginal")

  def kappa_at(self, t: jax.Array) -> jax.Array:
    """kappa of steps that begin at times `t`, shaped like them."""
    return jnp.where((t <= self.begin) & (t > self.end), self.kappa, 1.0)

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    part_key, back_key, anew_key = jax.random.split(m.key, 3)
    # A visible token is known, whatever was predicted.
    x = jnp.where(process.active(m.z), reading.x, m.z)
    back = process.sample_posterior(back_key, m.z, x, m.s, m.t)
    anew = process.corrupt(anew_key, x, m.s)
    goes_back = jax.random.uniform(part_key, m.z.shape) < expand(self.kappa_at(m.t), m.z)
    return jnp.where(goes_back, back, anew), memory

  def problems(self, config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    if self.begin <= self.end:
      yield (
        f"psi.begin is {self.begin} and psi.end is {self.end}; time goes down:"
        " expected begin above end"
      )


@dataclasses.dataclass(frozen=True)
class P2(Sampler):
  """Path planning (arXiv 2502.03540): the least probable tokens are masked, visible or not.

  Each step draws `x` at all positions, and of the free ones masks as many as the schedule says,
  those of the lowest log p(x); that of visible tokens counts `eta` times. All other masks become
  `x`. It asks a network about visible tokens, of which one that is trained at masks alone says
  anything, and an exact denoiser that they are certain.
  """

  eta: float = setting(
    1.0, Real("[0, 1000]"), "0 masks no visible token; the higher, the more often."
  )

  @property
  def reads(self) -> tuple[str, ...]:
    return ("log_prob",)

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    masked = process.active(m.z)
    # Of what is alike the masks stay masks.
    score = jnp.where(masked, reading.log_prob, self.eta * reading.log_prob + ALIKE)
    number = jnp.round(process.schedule.beta(m.s) * m.is_free.sum(1)).astype(int)
    is_low = m.is_free & (ranks(m.key, score, ~m.is_free) < number[:, None])
    revealed = jnp.where(masked, reading.x, m.z)
    return jnp.where(is_low, process.num_categories, revealed), memory
