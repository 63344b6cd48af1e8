"""Masks are lifted in an order that the predictions decide; a token that is revealed stays.

Of two positions that are alike the first is drawn.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.processes import Process
from dmmd_jax.diffusion.samplers.sampler import Moment, Reading, Sampler
from dmmd_jax.rules import Choice, Real, Whole, setting

# Scores that are nearer to each other than this are alike: far above what rounding makes of them.
ALIKE = 1e-4


def ranks(key: jax.Array, scores: jax.Array, *before: jax.Array) -> jax.Array:
  """The place int `[B, N]` of each position in the rising order of its row's scores `[B, N]`.

  `before` are keys `[B, N]` that come first, the last of them first of all, as in `jnp.lexsort`.
  Positions of which nothing is known yet have one score but for rounding, which must not decide:
  it is another in each program.
  """
  scores += ALIKE * jax.random.uniform(key, scores.shape)
  return jnp.argsort(jnp.lexsort((scores, *before), axis=-1), axis=-1)


@dataclasses.dataclass(frozen=True)
class Revealing(Sampler):
  """What samplers have in common that reveal masks for good.

  With a `block` of tokens the masks of a block are lifted before those of the next one
  (semi-autoregressive decoding, LLaDA, arXiv 2502.09992), by a network that sees all of them.
  """

  tokens: str = setting(
    "drawn", Choice(("drawn", "likeliest")), "What is revealed, of what a position is predicted."
  )
  block: int = setting(
    0, Whole(), "Sequences: tokens that are all revealed before those after them; 0 is all."
  )

  @property
  def is_greedy(self) -> bool:
    return self.tokens == "likeliest"

  def block_of(self, masked: jax.Array) -> jax.Array:
    """The number of the block of each position, int `[N]`."""
    return jnp.arange(masked.shape[1]) // (self.block or masked.shape[1])

  def candidates(self, masked: jax.Array) -> jax.Array:
    """The masks `[B, N]` of the first block that has any, bool `[B, N]`."""
    block = jnp.where(masked, self.block_of(masked), masked.shape[1])
    return masked & (block == block.min(1, keepdims=True))

  def problems(self, config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    fits = len(shape) == 1 and not config.network.get("block", 0) and self.block <= shape[0]
    if self.block and not fits:
      yield (
        f"a sampler's block is {self.block}; expected 0, or for sequences that the network draws"
        f" as a whole at most their length: examples are {shape}, network.block is"
        f" {config.network.get('block', 0)}"
      )


@dataclasses.dataclass(frozen=True)
class Confidence(Revealing):
  """At each step the positions of the highest score are revealed, as many as the schedule says.

  On an even grid of a linear schedule they are equally many a step (LLaDA, arXiv 2502.09992; the
  routing of RDM, 2302.05737); on the grid `cosine` they are those of MaskGIT (2202.04200). All
  scores are of the law that tokens are drawn from, after temperature and top-p. MaskGIT adds Gumbel
  noise to the score, times `choice_temperature` and the time, so that the order becomes less random
  towards the end.
  """

  score: str = setting(
    "probability",
    Choice(("probability", "margin", "entropy")),
    "probability: of the token | margin: of the likeliest to the next | entropy: the lowest first.",
  )
  choice_temperature: float = setting(
    0.0, Real("[0, 1000]"), "Of Gumbel noise on the score, times t; 0 is none."
  )

  is_adaptive = True

  @property
  def reads(self) -> tuple[str, ...]:
    return {"probability": ("log_prob",), "margin": ("margin",), "entropy": ()}[self.score]

  def start(self, process: Process, z: jax.Array, t: jax.Array) -> jax.Array:
    """For how many positions as many masks would be expected, `[B]`."""
    return process.active(z).sum(1) / jnp.maximum(process.schedule.beta(t), 1e-30)

  def number(self, process: Process, m: Moment, memory: jax.Array) -> jax.Array:
    """How many masks of each example a step reveals, int `[B]`."""
    stay = jnp.round(memory * process.schedule.beta(m.s)).astype(int)
    return process.active(m.z).sum(1) - stay

  def needs(self, process: Process, m: Moment, memory: Any) -> jax.Array:
    return self.number(process, m, memory) > 0

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    masked = process.active(m.z)
    number = self.number(process, m, memory)
    score = {
      "probability": reading.log_prob, "margin": reading.margin, "entropy": -reading.entropy
    }[self.score]  # fmt: skip
    choice_key, rank_key = jax.random.split(m.key)
    if self.choice_temperature:
      noise = jax.random.gumbel(choice_key, m.z.shape)
      score += self.choice_temperature * m.t[:, None] * noise
    block = jnp.broadcast_to(self.block_of(masked), masked.shape)
    is_revealed = masked & (ranks(rank_key, -score, block, ~masked) < number[:, None])
    return jnp.where(is_revealed, reading.x, m.z), memory


@dataclasses.dataclass(frozen=True)
class EntropyBounded(Revealing):
  """As many positions at once as are certain enough together (arXiv 2505.24857).

  By rising entropy `H` the `k` first are revealed, of which `sum H - max H <= gamma`, at least one.
  An example is complete after as many evaluations as that takes, and at the last step.
  """

  gamma: float = setting(
    0.1, Real("[0, 1000]"), "Nats; the higher, the fewer evaluations, and the less exact."
  )

  is_adaptive = True
  stops_early = True

  def needs(self, process: Process, m: Moment, memory: Any) -> jax.Array:
    return process.active(m.z).any(1)

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    masked = process.active(m.z)
    candidates = self.candidates(masked)
    rank = ranks(m.key, reading.entropy, ~candidates)
    entropies = jnp.sort(jnp.where(candidates, reading.entropy, jnp.inf), axis=-1)
    # The largest of the k first is the last of them.
    others = jnp.cumsum(entropies, -1) - entropies
    is_bounded = jnp.take_along_axis(others <= self.gamma, rank, -1) | (rank == 0)
    is_revealed = masked & (candidates & is_bounded | m.is_last)
    return jnp.where(is_revealed, reading.x, m.z), memory


@dataclasses.dataclass(frozen=True)
class Threshold(Revealing):
  """All tokens above a probability at once, and at least the most probable (arXiv 2505.22618).

  An example is complete after as many evaluations as that takes, and at the last step.
  """

  threshold: float = setting(0.9, Real("(0, 1]"), "The probability of a token that is revealed.")

  is_adaptive = True
  stops_early = True

  @property
  def reads(self) -> tuple[str, ...]:
    return ("log_prob",)

  def needs(self, process: Process, m: Moment, memory: Any) -> jax.Array:
    return process.active(m.z).any(1)

  def step(self, process: Process, m: Moment, reading: Reading, memory: Any) -> tuple:
    masked = process.active(m.z)
    candidates = self.candidates(masked)
    is_best = ranks(m.key, -reading.log_prob, ~candidates) == 0
    is_sure = (jnp.exp(reading.log_prob) >= self.threshold) | is_best
    is_revealed = masked & (candidates & is_sure | m.is_last)
    return jnp.where(is_revealed, reading.x, m.z), memory
