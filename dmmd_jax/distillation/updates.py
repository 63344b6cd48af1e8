"""Updates that methods are made of: of a student alone, or of a student and an auxiliary model."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dmmd_jax.distillation.parts import ANY_NOISE, Parts, Training
from dmmd_jax.optimization import Trainable, average, gradients, split_batch


@flax.struct.dataclass
class State:
  """`ema` is the average of the student, the model to sample from.

  Methods that need no auxiliary model, or no teacher in their steps, have none.
  """

  student: Trainable
  auxiliary: Trainable | None
  teacher: Any
  ema: Any


def init(
  parts: Parts, key: jax.Array, teacher: Any, auxiliary: bool = False, keep_teacher: bool = True
) -> State:
  """The state before the first step: student and auxiliary model start from the teacher."""
  teacher = nn.meta.replace_boxed(parts.auxiliary.init(key), teacher)
  # A student is its teacher with a noise input that starts at zero.
  student = {**parts.student.init(key), **teacher}
  c = parts.training
  frozen = jax.tree.map(lambda x: x.astype(c.teacher_dtype), teacher)
  return State(
    student=Trainable.create(student, c.student_optimizer),
    auxiliary=Trainable.create(teacher, c.auxiliary_optimizer) if auxiliary else None,
    teacher=frozen if keep_teacher else None,
    ema=student,
  )


def update_student_by(
  parts: Parts, loss: Callable, state: State, batch: Any, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of a student without an auxiliary model.

  `loss(eta, theta, batch, key)` gives a scalar and metrics; `theta` are the teacher's parameters.
  """

  def of_student(eta, batch, key):
    return loss(eta, state.teacher, batch, key)

  grads, metrics = gradients(
    of_student, state.student.params, batch, key, parts.training.microbatches
  )
  metrics["student_gradient_norm"] = optax.tree.norm(grads)
  return _update_student(parts.training, state, grads), metrics


def update_in_rounds(
  parts: Parts,
  loss: Callable,
  rounds: int,
  first_step: float,
  state: State,
  batch: Any,
  key: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
  """One update of a student that becomes the teacher when a round ends.

  `rounds` are equal parts of `training.num_steps`. The step size is `first_step` in the first, and
  doubles with each: `loss(eta, theta, step_size, batch, key)` gives a scalar and metrics. A teacher
  is the student's parameters, not their average; the student keeps its optimiser. The round is
  known by the number of the student's updates.
  """
  begun = round_of(parts.training, rounds, state.student.count)
  step_size = first_step * jnp.left_shift(1, begun).astype(jnp.float32)

  def of_round(eta, theta, batch, key):
    return loss(eta, theta, step_size, batch, key)

  state, metrics = update_student_by(parts, of_round, state, batch, key)
  ended = round_ended(parts.training, rounds, state.student.count)
  teacher = promote(ended, state.student.params, state.teacher)
  return state.replace(teacher=teacher), metrics | {"step_size": step_size}


def round_of(training: Training, rounds: int, count: jax.Array) -> jax.Array:
  """The round of the update after `count` others; all are equal, but the last may be longer."""
  return jnp.minimum(count // (training.num_steps // rounds), rounds - 1)


def round_ended(training: Training, rounds: int, count: jax.Array) -> jax.Array:
  """Whether the last of `count` updates was that of a round."""
  before = jnp.maximum(count - 1, 0)
  return round_of(training, rounds, count) > round_of(training, rounds, before)


def promote(now: jax.Array, student: Any, teacher: Any) -> Any:
  """The teacher, or where `now` holds the student's parameters in the teacher's precision."""
  return jax.tree.map(lambda new, old: jnp.where(now, new.astype(old.dtype), old), student, teacher)


def problems_of_truncation(config: Any) -> Iterator[str]:
  """What would change a teacher that is the student of the round before once more."""
  c = config.distill
  if (c.temperature, c.top_p, c.guidance) != (1, 1, 0):
    yield (
      "distill.temperature, distill.top_p and distill.guidance would act anew in every round of"
      f" distill.method '{c.method}': leave them at 1, 1 and 0"
    )


def problems_of_rounds(config: Any) -> Iterator[str]:
  """What does not go with a student that becomes the teacher; the section has `rounds`."""
  c, method = config.distill, config.distill.method
  if c.teacher == "exact":
    yield (
      f"distill.teacher is 'exact' and distill.method '{method}', whose teachers are given the"
      " student's parameters: use 'network'"
    )
  yield from problems_of_truncation(config)
  if c.from_prior:
    yield f"distill.from_prior is True; distill.method '{method}' needs all times: set it to False"
  if c.num_steps < c[method].rounds:
    yield (
      f"distill.num_steps is {c.num_steps} and distill.{method}.rounds {c[method].rounds}; expected"
      " a step for each round at least"
    )


def batches_per_step(training: Training) -> int:
  """How many batches `update_both` takes, one for each of its updates."""
  return 1 if training.updates == "joint" else 1 + training.auxiliary_updates


def update_both(
  parts: Parts, losses: Callable, state: State, batch: Any, key: jax.Array
) -> tuple[State, dict[str, jax.Array]]:
  """One update of the student, and those of the auxiliary model: as `training.updates` says.

  `losses(eta, phi, theta, batch, key, for_student)` gives the student's loss, with a gradient in
  `eta` only, the auxiliary model's, with one in `phi` only, and metrics; where the former is not
  needed `for_student` is False. `alternate`: first the student, then the auxiliary model, each on a
  batch of its own. `joint`: both from one evaluation of `losses`.
  """
  update = _update_jointly if parts.training.updates == "joint" else _update_in_turns
  return update(parts.training, losses, state, batch, key)


@dataclasses.dataclass(frozen=True)
class WithAuxiliary:
  """What methods with an auxiliary model share; each has its own `losses` (see `update_both`)."""

  parts: Parts

  noises = ANY_NOISE
  takes_low_rank = True

  @property
  def batches_per_step(self) -> int:
    return batches_per_step(self.parts.training)

  def init(self, key: jax.Array, teacher: Any) -> State:
    return init(self.parts, key, teacher, auxiliary=True)

  def step(self, state: State, batch: Any, key: jax.Array) -> tuple[State, dict[str, jax.Array]]:
    return update_both(self.parts, self.losses, state, batch, key)


def _update_jointly(c, losses, state, batch, key):
  def loss(params, batch, key):
    generator, auxiliary, metrics = losses(*params, state.teacher, batch, key, True)
    return generator + auxiliary, metrics

  params = state.student.params, state.auxiliary.params
  grads, metrics = gradients(loss, params, batch, key, c.microbatches)
  state = _update_auxiliary(c, _update_student(c, state, grads[0]), grads[1])
  return state, metrics | _gradient_norms(*grads)


def _update_in_turns(c, losses, state, batch, key):
  num_updates = batches_per_step(c)
  parts = split_batch(batch, num_updates), jax.random.split(key, num_updates)
  first, first_key = jax.tree.map(lambda x: x[0], parts)

  def student_loss(eta, batch, key):
    loss, _, metrics = losses(eta, state.auxiliary.params, state.teacher, batch, key, True)
    return loss, metrics

  student_grads, metrics = gradients(
    student_loss, state.student.params, first, first_key, c.microbatches
  )
  state = _update_student(c, state, student_grads)

  def auxiliary_update(state, inputs):
    def auxiliary_loss(phi, batch, key):
      return losses(state.student.params, phi, state.teacher, batch, key, False)[1:]

    grads, _ = gradients(auxiliary_loss, state.auxiliary.params, *inputs, c.microbatches)
    return _update_auxiliary(c, state, grads), grads

  rest = jax.tree.map(lambda x: x[1:], parts)
  state, grads = jax.lax.scan(auxiliary_update, state, rest)
  last = jax.tree.map(lambda g: g[-1], grads)
  return state, metrics | _gradient_norms(student_grads, last)


def _update_student(c: Training, state: State, grads: Any) -> State:
  student = state.student.update(grads, c.student_optimizer)
  return state.replace(student=student, ema=average(state.ema, student, c.ema))


def _update_auxiliary(c: Training, state: State, grads: Any) -> State:
  return state.replace(auxiliary=state.auxiliary.update(grads, c.auxiliary_optimizer))


def _gradient_norms(student_grads, auxiliary_grads) -> dict[str, jax.Array]:
  return {
    "student_gradient_norm": optax.tree.norm(student_grads),
    "auxiliary_gradient_norm": optax.tree.norm(auxiliary_grads),
  }
