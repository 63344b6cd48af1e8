"""D-MMD and the kernel score together: students of one to four steps.

The score ties the student's noise to joint choices, which D-MMD alone begins slowly (it sits at a
saddle), and covers all modes; D-MMD seeks the likely ones, and knows what the teacher knows.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from dmmd_jax.distillation import updates
from dmmd_jax.distillation.dmmd import DMMD, DMMDSettings, dmmd_losses
from dmmd_jax.distillation.kernel_score import Score, ScoreSettings, score_problems
from dmmd_jax.distillation.rollout import Noises, rollout
from dmmd_jax.rules import Choice, Real, Whole, setting


@dataclasses.dataclass(frozen=True)
class DMMDKernelSettings:
  """The section `distill.dmmd_kernel` of a config."""

  dmmd_weight: float = setting(3.0, Real("(0, 1000]"), "Of Eq. 11, to which the score is added.")
  dmmd_noises: str = setting(
    "all",
    Choice(("all", "first")),
    "Of the noises that the score compares, those that D-MMD is given; one costs less.",
  )
  score_stride: int = setting(
    1, Whole(1), "Of the examples, the score is given the first of so many; D-MMD is given all."
  )


@dataclasses.dataclass(frozen=True)
class DMMDKernel(updates.WithAuxiliary):
  """D-MMD and the kernel score of the same rollout, added (ours)."""

  dmmd: DMMDSettings = dataclasses.field(default_factory=DMMDSettings)
  score: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)
  dmmd_kernel: DMMDKernelSettings = dataclasses.field(default_factory=DMMDKernelSettings)

  def losses(self, eta, phi, theta, batch, key: jax.Array, for_student: bool = True):
    """Losses of student and auxiliary model, and metrics; the score for the student's update."""
    of_dmmd = DMMD(self.parts, self.dmmd)
    score = Score(self.parts, self.score)
    objective = dataclasses.replace(of_dmmd.objective, independent_times=score.independent_times)
    rollout_key, score_key = jax.random.split(key)
    noises = Noises(self.score.num_noises, self.dmmd_kernel.score_stride)
    if not for_student:
      noises = Noises()
    networks = of_dmmd.networks(theta, batch)
    student = of_dmmd.networks(theta, noises.repeat(batch)).student
    r = rollout(objective, student, eta, batch.tokens, rollout_key, noises, batch.prompts)
    given = noises.first(r) if self.dmmd_kernel.dmmd_noises == "first" else r
    generator, auxiliary, metrics = dmmd_losses(objective, networks, phi, given)
    if for_student:
      compared = noises.several(r)
      examples = jax.tree.map(lambda x: x[:: noises.stride], batch)
      value = score(theta, compared.log_mean, examples, compared.z_t, compared.t, score_key)
      generator = self.dmmd_kernel.dmmd_weight * generator + value
      metrics["kernel_score_loss"] = value
    return generator, auxiliary, metrics

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    yield from DMMD.problems(config, shape)
    distill, c = config.distill, config.distill.dmmd_kernel
    yield from score_problems(config, shape, c.score_stride)
    if c.score_stride > 1 and c.dmmd_noises == "all" and distill.score.num_noises > 1:
      yield (
        f"distill.dmmd_kernel.score_stride is {c.score_stride} and dmmd_noises 'all': D-MMD would"
        " see some examples more often than others; use dmmd_noises='first'"
      )
    examples = distill.batch_size // distill.microbatches
    if examples % c.score_stride:
      yield (
        f"distill.batch_size / distill.microbatches is {examples} and"
        f" distill.dmmd_kernel.score_stride {c.score_stride}; the latter must divide the former"
      )
