"""The control of a comparison: no distillation, the teacher is trained on by its own loss.

What a method gains over this student it does not owe to time alone. As for other students, times
are continuous, whatever `teacher.num_timesteps` is, and no labels are dropped.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from dmmd_jax.distillation import updates
from dmmd_jax.distillation.parts import Parts


@dataclasses.dataclass(frozen=True)
class Continued:
  """The teacher's network, from its parameters on, by the teacher's own loss on data."""

  parts: Parts

  noises = ("none",)
  batches_per_step = 1

  def init(self, key: jax.Array, teacher: Any) -> updates.State:
    return updates.init(self.parts, key, teacher, keep_teacher=False)

  def step(self, state: updates.State, batch: Any, key: jax.Array):
    return updates.update_student_by(self.parts, self.loss, state, batch, key)

  def loss(self, eta, theta, batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Nats per token, and metrics."""
    del theta
    value = self.parts.teacher_loss(eta, batch, key)
    return value, {"loss": value}

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    c = config.distill
    if (c.temperature, c.top_p, c.guidance) != (1, 1, 0):
      yield (
        "distill.temperature, distill.top_p and distill.guidance act on a teacher, which"
        " distill.method 'continued' does not ask: leave them at 1, 1 and 0"
      )
    if c.teacher == "exact":
      yield (
        "distill.teacher is 'exact' and distill.method 'continued', which trains a network on: it"
        " is no control of what is known exactly; use 'network'"
      )
    if c.from_prior:
      yield "distill.from_prior is True; distill.method 'continued' needs all times: use False"
