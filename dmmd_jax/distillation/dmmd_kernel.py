"""D-MMD and the kernel score together: students of one to four steps.

The score ties the student's noise to joint choices, which D-MMD alone cannot begin with (it sits at
a saddle), and covers all modes; D-MMD seeks the likely ones, and knows what the teacher knows.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from dmmd_jax.distillation import updates
from dmmd_jax.distillation.dmmd import DMMD, DMMDSettings, dmmd_losses
from dmmd_jax.distillation.kernel_score import Score, ScoreSettings, score_problems
from dmmd_jax.distillation.rollout import first_of_each, rollout
from dmmd_jax.rules import Choice, Real, setting


@dataclasses.dataclass(frozen=True)
class DMMDKernelSettings:
  """The section `distill.dmmd_kernel` of a config."""

  dmmd_weight: float = setting(3.0, Real("(0, 1000]"), "Of Eq. 11, to which the score is added.")
  dmmd_noises: str = setting(
    "all",
    Choice(("all", "first")),
    "Of the noises that the score compares, those that D-MMD is given; one costs less.",
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
    num_noises = self.score.num_noises if for_student else 1
    networks = of_dmmd.networks(theta, batch)
    r = rollout(objective, networks.student, eta, batch.tokens, rollout_key, num_noises)
    given = first_of_each(r, num_noises) if self.dmmd_kernel.dmmd_noises == "first" else r
    generator, auxiliary, metrics = dmmd_losses(objective, networks, phi, given)
    if for_student:
      value = score(theta, r.log_mean, batch, r.z_t, r.t, score_key)
      generator = self.dmmd_kernel.dmmd_weight * generator + value
      metrics["kernel_score_loss"] = value
    return generator, auxiliary, metrics

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    yield from DMMD.problems(config, shape)
    yield from score_problems(config, shape)
