"""IDLM: inverse distillation of diffusion language models (arXiv 2602.19066).

A teacher `theta` minimises a diffusion loss `L` on data; a student is right where the teacher
minimises it on what the student makes. With `y` the student's probabilities at `z_t`, and `z_s`
drawn from `q(z_s | y)` at a time of its own,

    max over phi, min over eta:  L(theta, y) - L(phi, y)

where `L(., y)` is the bound with `y` in the place of the clean token, at `z_s`.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from dmmd_jax.distillation import updates
from dmmd_jax.distillation.dmmd import DMMD, DMMDSettings, Objective, dmmd_losses
from dmmd_jax.distillation.rollout import rollout

# L is the bound, on soft labels in both models' losses, and nothing holds phi to the teacher.
_AS_DMMD = DMMDSettings(
  loss="bound", auxiliary_target="soft", teacher_weight=0.0, renoise="forward"
)


@dataclasses.dataclass(frozen=True)
class IDLM(updates.WithAuxiliary):
  """Inverse-distilled diffusion language models (arXiv 2602.19066); it has no settings of its own.

  D-MMD with `renoise="forward"` and `loss="bound"` is its relative, and differs in two ways: its
  auxiliary model is held to the teacher (`teacher_weight`), and `z_s` is at most `1/student_nfe`
  cleaner than the `z_t` that the student saw, where here `t` and `s` are independent, so that
  `student_nfe` has no part in training. Where the process is not the masked one `y` is the law that
  the student's tokens are drawn from, `E[x | z_t]`. Soft labels are right for every process, since
  `z_s` depends on `y` alone: the rates of `y` are the means of those of its samples.

  The gradient flows through `y`. The authors' path through the input of teacher and auxiliary model
  as well, a softmax of Gaussians for students of Duo, is left out: these networks see tokens.
  """

  def losses(self, eta, phi, theta, batch, key: jax.Array, for_student: bool = True):
    """Losses of student and auxiliary model, and metrics, on a rollout of its own."""
    rollout_key, _ = jax.random.split(key)
    networks = DMMD(self.parts, _AS_DMMD).networks(theta, batch)
    r = rollout(
      self.objective, networks.student, eta, batch.tokens, rollout_key, prompts=batch.prompts
    )
    return dmmd_losses(self.objective, networks, phi, r)

  @property
  def objective(self) -> Objective:
    return dataclasses.replace(DMMD(self.parts, _AS_DMMD).objective, fresh_times=True)

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill, process = config.distill, config.process.name
    if process == "masked":
      return
    if config.teacher.loss != "bound":
      yield (
        f"distill.method is 'idlm' with the {process} process and a teacher trained with"
        " cross-entropy; IDLM compares with the bound: use teacher.loss='bound'"
      )
    if distill.top_p != 1 or distill.temperature != 1:
      yield (
        "distill.temperature and distill.top_p act on E[x | z_t], which IDLM does not use with the"
        f" {process} process: leave them at 1 and 1"
      )
    if distill.teacher == "exact":
      yield (
        "distill.teacher is 'exact', which gives E[x | z_t]; IDLM does not use it with the"
        f" {process} process: use 'network'"
      )
