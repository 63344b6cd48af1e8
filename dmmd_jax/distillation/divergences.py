"""How far a student's predictions are from their targets, at the positions that count."""

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import entropy, kl, mean_where
from dmmd_jax.positions import Deferred, mean_positions

# Categories that a network knows never to occur are below it.
_IMPOSSIBLE = -1e8


def kl_student_teacher(log_student: jax.Array, log_teacher: jax.Array) -> jax.Array:
  """`KL(student || teacher)` in nats, of log-probabilities `[..., K]`."""
  return kl(log_student, log_teacher)


def kl_teacher_student(log_student: jax.Array, log_teacher: jax.Array) -> jax.Array:
  """`KL(teacher || student)` in nats."""
  return kl(log_teacher, log_student)


def squared_error(log_student: jax.Array, log_teacher: jax.Array) -> jax.Array:
  """The squared difference of log-probabilities, averaged over categories."""
  error = jnp.square(log_student - log_teacher)
  return jnp.where(log_teacher > _IMPOSSIBLE, error, 0.0).mean(-1)


def tv(log_student: jax.Array, log_teacher: jax.Array) -> jax.Array:
  """Total variation, half the sum of absolute differences of probabilities."""
  return 0.5 * jnp.abs(jnp.exp(log_student) - jnp.exp(log_teacher)).sum(-1)


# They are shaped like the positions.
DIVERGENCES = {
  "kl_student_teacher": kl_student_teacher,
  "kl_teacher_student": kl_teacher_student,
  "squared_error": squared_error,
  "tv": tv,
}


def mean_divergence(
  name: str,
  log_student: jax.Array | Deferred,
  log_teacher: jax.Array | Deferred,
  where: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """One of `DIVERGENCES`, and the student's entropy: means over positions where a bool holds.

  Log-probabilities are `[B, ..., K]`, `where` `[B, ...]`; both means are 0 where it nowhere holds.
  Of a batch in microbatches each has a mean of its own.
  The first is differentiable in `log_student`.
  """
  weight = where / jnp.maximum(where.mean(), 1.0 / where.size)

  @jax.named_scope("vocabulary")
  def of_position(log_student, log_teacher, weight):
    log_teacher = jax.lax.stop_gradient(log_teacher)
    divergence = DIVERGENCES[name](log_student, log_teacher)
    return (weight * divergence,), entropy(log_student)

  (loss,), entropies = mean_positions(of_position, log_student, log_teacher, weight)
  return loss, mean_where(entropies, where)
