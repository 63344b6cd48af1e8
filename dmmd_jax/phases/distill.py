"""Distils the teacher into a student of a few steps."""

import functools
import pathlib
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import optax

from dmmd_jax import training
from dmmd_jax.data.pipeline import batches
from dmmd_jax.distillation import dmmd
from dmmd_jax.phases import build


@flax.struct.dataclass
class DistillState:
  """`ema` is the average of the student, the model to sample from; `teacher` never changes."""

  student: training.Trainable
  auxiliary: training.Trainable
  teacher: Any
  ema: Any


def run(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
  """Runs `config.distill.num_steps` generator updates with the auxiliary updates between them."""
  c = config.distill
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  updates_per_step = 1 if c.updates == "joint" else 1 + c.auxiliary_updates
  init, step = make_step(config, dataset, denoiser)
  job = training.Job(
    name="distill",
    num_steps=c.num_steps,
    init=init,
    step=step,
    batches=lambda start: batches(
      dataset.train, updates_per_step * c.batch_size, config.run.seed + 1, start
    ),
    given=build.load_ema(pathlib.Path(c.teacher_workdir or workdir) / "teacher", denoiser, mesh),
  )
  training.train(job, workdir / job.name, config.run, mesh)


def make_step(config, dataset, denoiser: build.Denoiser) -> tuple[Callable, Callable]:
  """`init(key, teacher)` and `step(state, batch, key)` of D-MMD (Algorithm 1).

  A batch holds one part of `batch_size` examples per update.
  """
  c = config.distill
  student_denoiser = build.make_denoiser(config, dataset, student=True)
  student_optimizer = training.make_optimizer(c.student_optimizer, c.num_steps)
  auxiliary_steps = c.num_steps * (1 if c.updates == "joint" else c.auxiliary_updates)
  auxiliary_optimizer = training.make_optimizer(c.auxiliary_optimizer, auxiliary_steps)
  losses = make_losses(config, dataset, denoiser, student_denoiser)

  def init(key, teacher):
    teacher = nn.meta.replace_boxed(denoiser.init(key), teacher)
    # A student is its teacher with a noise input that starts at zero.
    student = {**student_denoiser.init(key), **teacher}
    return DistillState(
      student=training.Trainable.create(student, student_optimizer),
      auxiliary=training.Trainable.create(teacher, auxiliary_optimizer),
      teacher=teacher,
      ema=student,
    )

  def update_student(state, grads):
    student = state.student.update(grads, student_optimizer)
    return state.replace(student=student, ema=training.average(state.ema, student.params, c.ema))

  def update_auxiliary(state, grads):
    return state.replace(auxiliary=state.auxiliary.update(grads, auxiliary_optimizer))

  def joint_step(state, x, key):
    def loss(eta, phi):
      generator, auxiliary, metrics = losses(eta, phi, state.teacher, x, key)
      return generator + auxiliary, metrics

    grads, metrics = jax.grad(loss, (0, 1), has_aux=True)(
      state.student.params, state.auxiliary.params
    )
    state = update_auxiliary(update_student(state, grads[0]), grads[1])
    return state, metrics | _gradient_norms(*grads)

  def alternating_step(state, x, key):
    x = x.reshape(1 + c.auxiliary_updates, c.batch_size, *x.shape[1:])
    keys = jax.random.split(key, len(x))

    def generator_loss(eta):
      loss, _, metrics = losses(eta, state.auxiliary.params, state.teacher, x[0], keys[0])
      return loss, metrics

    student_grads, metrics = jax.grad(generator_loss, has_aux=True)(state.student.params)
    state = update_student(state, student_grads)

    def auxiliary_update(state, inputs):
      def auxiliary_loss(phi):
        return losses(state.student.params, phi, state.teacher, *inputs)[1]

      grads = jax.grad(auxiliary_loss)(state.auxiliary.params)
      return update_auxiliary(state, grads), grads

    state, grads = jax.lax.scan(auxiliary_update, state, (x[1:], keys[1:]))
    last = jax.tree.map(lambda g: g[-1], grads)
    return state, metrics | _gradient_norms(student_grads, last)

  return init, joint_step if c.updates == "joint" else alternating_step


def make_losses(
  config, dataset, denoiser: build.Denoiser, student: build.Denoiser
) -> Callable[..., tuple[jax.Array, jax.Array, dict[str, jax.Array]]]:
  """`losses(eta, phi, theta, x, key)` of `dmmd.dmmd_losses` with the choices of the config."""
  c = config.distill
  method = dmmd.DMMD(
    process=denoiser.process,
    steps=c.steps,
    loss=c.loss,
    auxiliary_target=c.auxiliary_target,
    teacher_weight=c.teacher_weight,
    weight=c.weight,
    temperature=c.temperature,
    top_p=c.top_p,
    top_p_penalty=c.top_p_penalty,
    renoise=c.renoise,
    from_prior=c.from_prior,
    prediction=denoiser.prediction if c.loss == "bound" else "mean",
  )

  def predictor(denoiser):
    return denoiser.log_probs if method.prediction == "leave_one_out" else denoiser.log_mean

  exact = c.teacher == "exact"
  teacher = build.exact_teacher(dataset, method.process) if exact else predictor(denoiser)

  def losses(eta, phi, theta, x, key):
    networks = dmmd.Networks(
      teacher=functools.partial(teacher, theta),
      student=predictor(student),
      auxiliary=predictor(denoiser),
    )
    return dmmd.dmmd_losses(method, networks, eta, phi, x, key)

  return losses


def _gradient_norms(student_grads, auxiliary_grads) -> dict[str, jax.Array]:
  return {
    "student_gradient_norm": optax.tree.norm(student_grads),
    "auxiliary_gradient_norm": optax.tree.norm(auxiliary_grads),
  }
