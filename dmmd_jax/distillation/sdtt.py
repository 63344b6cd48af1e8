"""Self-Distillation Through Time (SDTT, arXiv 2410.21035): two steps of a masked model in one.

The teacher takes two ancestral sub-steps of the size `dt` of the round, at `t` and `t - dt`. A
masked position's target is what the teacher predicted at the sub-step at which it was unmasked, and
at the last sub-step where it still is masked; the student is to predict it from `z_t`. So it learns
steps of `2 dt`, and becomes the teacher of the next round.

The release evaluates its sub-steps at other times: its grid mixes `t` and the end with weights `w`
and `1 - t`, where `1 - w` is meant, and ends at `t - 2 dt`, where the second sub-step should end,
not begin. Its total variation is of log-probabilities; here it is of probabilities, as it is named.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import draw, uniforms
from dmmd_jax.diffusion.losses import sample_times
from dmmd_jax.diffusion.processes import spread
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.divergences import DIVERGENCES, mean_divergence
from dmmd_jax.distillation.parts import Parts
from dmmd_jax.distillation.rollout import with_prompts
from dmmd_jax.positions import Deferred, map_positions
from dmmd_jax.rules import Choice, Whole, setting


@dataclasses.dataclass(frozen=True)
class SDTTSettings:
  """The section `distill.sdtt` of a config."""

  rounds: int = setting(7, Whole(1, 24), "Equal parts of `distill.num_steps`.")
  teacher_nfe: int = setting(
    1024, Whole(1, 2**24), "The first round's sub-steps are 1/teacher_nfe; each round doubles them."
  )
  loss: str = setting(
    "kl_student_teacher",
    Choice(tuple(DIVERGENCES)),
    "Of the student and its targets; squared_error is that of log-probabilities.",
  )


@dataclasses.dataclass(frozen=True)
class SDTT:
  """Self-Distillation Through Time (arXiv 2410.21035)."""

  parts: Parts
  sdtt: SDTTSettings = dataclasses.field(default_factory=SDTTSettings)

  noises = ("none",)  # students become teachers
  batches_per_step = 1

  def init(self, key: jax.Array, teacher: Any) -> updates.State:
    return updates.init(self.parts, key, teacher)

  def step(self, state, batch, key: jax.Array):
    c = self.sdtt
    return updates.update_in_rounds(
      self.parts, self.loss, c.rounds, 1.0 / c.teacher_nfe, state, batch, key
    )

  def loss(self, eta, theta, step_size: jax.Array, batch, key: jax.Array):
    """The mean divergence at masked positions, for sub-steps of one size; and metrics."""
    p, x = self.parts, batch.tokens
    time_key, corrupt_key, target_key = jax.random.split(key, 3)
    t = spread(sample_times(time_key, len(x) * p.num_blocks), p.num_blocks, x.shape[1])
    z_t = with_prompts(p.process.corrupt(corrupt_key, x, t), x, batch.prompts)
    predict = functools.partial(p.teacher.given(batch).log_mean, theta)
    log_target = targets(predict, p.process, z_t, t, step_size, target_key)
    log_student = p.student.given(batch).log_mean(eta, z_t, t)
    loss, entropy = mean_divergence(self.sdtt.loss, log_student, log_target, p.process.active(z_t))
    return loss, {"sdtt_loss": loss, "entropy": entropy}

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill, c = config.distill, config.distill.sdtt
    if config.process.name != "masked":
      yield (
        f"distill.method is 'sdtt' and process.name is '{config.process.name}'; what a step unmasks"
        " is what SDTT matches: use 'masked', or distill.method='dcd'"
      )
    if c.teacher_nfe != distill.student_nfe * 2**c.rounds:
      yield (
        f"distill.sdtt.teacher_nfe is {c.teacher_nfe} and distill.student_nfe is"
        f" {distill.student_nfe}; distill.sdtt.rounds={c.rounds} makes a student of n steps from a"
        f" teacher of {2**c.rounds} n: set the former to {distill.student_nfe * 2**c.rounds}"
      )
    yield from updates.problems_of_rounds(config)


def targets(predict, process, z_t, t, step_size, key: jax.Array) -> Deferred:
  """What a teacher predicts in two sub-steps, log-probabilities `[B, ..., K]`.

  `predict(z, t)` is the teacher's `log E[x | z_t]`, `z_t` int `[B, ...]`, `t` its times. What the
  second sub-step draws makes no difference, since its prediction is the target of all that it
  finds masked.
  """
  x_key, z_key = jax.random.split(key)
  s = jnp.maximum(t - step_size, 0.0)
  log_first = predict(z_t, t)
  x = map_positions(draw, log_first, uniforms(x_key, z_t.shape))
  z_s = process.sample_posterior(z_key, z_t, x, s, t)

  def choose(is_masked, log_second, log_first):
    return jnp.where(is_masked[..., None], log_second, log_first)

  return Deferred(choose, (process.active(z_s), predict(z_s, s), log_first))
