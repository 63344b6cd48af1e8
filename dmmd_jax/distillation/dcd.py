"""Discrete consistency distillation (DCD, "The Diffusion Duality", arXiv 2506.10892, Algorithm 1).

A student at `t` is to predict what its teacher predicts at `s = t - dt`, a little less noisy on the
same path. The step `dt` doubles in rounds, and the student becomes the teacher of the next.

A path of Duo is that of one Gaussian vector `e` per token, `z_t = argmax(a_t onehot(x) + b_t e)`.
It stays at `x` until `a_t / b_t` falls below `d`, the largest of the other entries of `e` less that
of `x`, and is at that largest entry from then on. `d` is independent of which entry it is, and all
others are equally likely. With `alpha_t` the probability that a token survives, as the paper has it
(an integral), `P(z_t = x) = alpha_t + (1 - alpha_t) / K`, so that a path is as likely to be at any
tokens at any times as one that keeps `x` while `u < alpha_t`, with one `u ~ U(0, 1)`, and has one
draw of `pi` afterwards: `Process.corrupt` with one key for all times. That needs neither the vector
nor the integral, and is a path of any other process, too; masks at `s` are then a subset of those
at `t`.

As released, the target is the teacher's own prediction at every `s`, also near 0. The release
compares outputs as they are; here both are `E[x | z_t]`, whatever networks predict. With masks, the
positions that count are those masked at `s`: at the others the target is one point, from which any
student is infinitely far; and which they are says nothing of their tokens. The release samples with
a greedy last step, which is `evaluate.last_step` here, and off unless asked for.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.losses import sample_times
from dmmd_jax.diffusion.processes import Process, spread
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.divergences import mean_divergence
from dmmd_jax.distillation.parts import Parts
from dmmd_jax.distillation.rollout import with_prompts
from dmmd_jax.rules import Whole, setting


@dataclasses.dataclass(frozen=True)
class DCDSettings:
  """The section `distill.dcd` of a config."""

  rounds: int = setting(5, Whole(1, 24), "Equal parts of `distill.num_steps`.")
  teacher_nfe: int = setting(
    512, Whole(1, 2**24), "The first round's t - s is 1/teacher_nfe; each round doubles it."
  )


@dataclasses.dataclass(frozen=True)
class DCD:
  """Discrete consistency distillation (Duo, arXiv 2506.10892)."""

  parts: Parts
  dcd: DCDSettings = dataclasses.field(default_factory=DCDSettings)

  noises = ("none",)  # students become teachers
  batches_per_step = 1

  def init(self, key: jax.Array, teacher: Any) -> updates.State:
    return updates.init(self.parts, key, teacher)

  def step(self, state, batch, key: jax.Array):
    c = self.dcd
    return updates.update_in_rounds(
      self.parts, self.loss, c.rounds, 1.0 / c.teacher_nfe, state, batch, key
    )

  def loss(self, eta, theta, step_size: jax.Array, batch, key: jax.Array):
    """The mean `KL(student at t || teacher at s)`, for steps of one size; and metrics."""
    p, x = self.parts, batch.tokens
    time_key, corrupt_key = jax.random.split(key)
    begin = sample_times(time_key, len(x) * p.num_blocks)
    t = spread(jnp.minimum(begin + step_size, 1.0), p.num_blocks, x.shape[1])
    s = t - step_size
    path = corrupt_together(p.process, corrupt_key, x, t, s)
    z_t, z_s = (with_prompts(z, x, batch.prompts) for z in path)
    log_student = p.student.given(batch).log_mean(eta, z_t, t)
    log_teacher = p.teacher.given(batch).log_mean(theta, z_s, s)
    loss, entropy = mean_divergence(
      "kl_student_teacher", log_student, log_teacher, p.process.active(z_s)
    )
    return loss, {"dcd_loss": loss, "entropy": entropy}

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    c = config.distill.dcd
    # In one step from 1 to 0 the target is data itself: from masks nothing is left to learn, and
    # from all else a student of the least divergence says the likeliest token alone.
    if c.teacher_nfe < 2**c.rounds:
      yield (
        f"distill.dcd.teacher_nfe is {c.teacher_nfe} and distill.dcd.rounds {c.rounds}; the last"
        f" round would step {2 ** (c.rounds - 1) / c.teacher_nfe:g}, where at most 0.5 leaves a"
        f" teacher to follow: have fewer rounds, or a teacher_nfe of at least {2**c.rounds}"
      )
    yield from updates.problems_of_rounds(config)


def corrupt_together(
  process: Process, key: jax.Array, x: jax.Array, *times: jax.Array
) -> tuple[jax.Array, ...]:
  """The states of one path at several times, each shaped like `x` (see above)."""
  return tuple(process.corrupt(key, x, t) for t in times)
