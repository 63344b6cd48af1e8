"""Distils the teacher into a student of a few steps."""

import functools
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from etils import epath

from dmmd_jax import training
from dmmd_jax.data.pipeline import Batches
from dmmd_jax.diffusion.categorical import entropy, mean_where
from dmmd_jax.diffusion.samplers import finish_sample
from dmmd_jax.distillation import dmmd, kernel_score
from dmmd_jax.phases import build
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.phases.teacher import trained
from dmmd_jax.positions import Deferred, map_positions, whole
from dmmd_jax.records import Sources


@flax.struct.dataclass
class DistillState:
  """`ema` is the average of the student, the model to sample from; `teacher` never changes.

  The kernel score alone has no auxiliary model, and no teacher unless its samples are the target.
  """

  student: training.Trainable
  auxiliary: training.Trainable | None
  teacher: Any
  ema: Any


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: Sources
) -> dict[str, Any]:
  """Runs `config.distill.num_steps` generator updates with the auxiliary updates between them."""
  c = config.distill
  denoiser = build.make_denoiser(config, dataset)
  init, step = make_step(config, dataset, denoiser)
  job = training.Job(
    name="distill",
    num_steps=c.num_steps,
    init=init,
    step=step,
    batches=Batches(
      dataset, updates_per_step(c) * c.batch_size, config.run.seed + 1, config.run.data_workers
    ),
    given=build.load_ema(sources["teacher"], denoiser.init, mesh),
  )
  return trained(job, workdir, config, mesh, sources)


def updates_per_step(config) -> int:
  """How many updates, each with its own part of the batch, make a step of `config.distill`."""
  if config.method == "kernel_score" or config.updates == "joint":
    return 1
  return 1 + config.auxiliary_updates


def make_step(config, dataset, denoiser: Denoiser) -> tuple[Callable, Callable]:
  """`init(key, teacher)` and `step(state, batch, key)` of the method of `config.distill`.

  A batch holds one part of `batch_size` examples per update.
  """
  c = config.distill
  student_denoiser = build.make_denoiser(config, dataset, student=True)
  student_optimizer = training.make_optimizer(c.student_optimizer, c.num_steps)
  auxiliary_steps = c.num_steps * (1 if c.updates == "joint" else c.auxiliary_updates)
  auxiliary_optimizer = training.make_optimizer(c.auxiliary_optimizer, auxiliary_steps)
  losses = make_losses(config, dataset, denoiser, student_denoiser)
  score_alone = c.method == "kernel_score"

  def init(key, teacher):
    teacher = nn.meta.replace_boxed(denoiser.init(key), teacher)
    # A student is its teacher with a noise input that starts at zero.
    student = {**student_denoiser.init(key), **teacher}
    frozen = jax.tree.map(lambda x: x.astype(c.teacher_dtype), teacher)
    return DistillState(
      student=training.Trainable.create(student, student_optimizer),
      auxiliary=None if score_alone else training.Trainable.create(teacher, auxiliary_optimizer),
      teacher=frozen if not score_alone or c.score.target == "teacher" else None,
      ema=student,
    )

  def update_student(state, grads):
    student = state.student.update(grads, student_optimizer)
    return state.replace(student=student, ema=training.average(state.ema, student, c.ema))

  def update_auxiliary(state, grads):
    return state.replace(auxiliary=state.auxiliary.update(grads, auxiliary_optimizer))

  def score_step(state, batch, key):
    def loss(eta, batch, key):
      generator, _, metrics = losses(eta, None, state.teacher, batch, key)
      return generator, metrics

    grads, metrics = training.gradients(loss, state.student.params, batch, key, c.microbatches)
    metrics["student_gradient_norm"] = optax.tree.norm(grads)
    return update_student(state, grads), metrics

  def joint_step(state, batch, key):
    def loss(params, batch, key):
      generator, auxiliary, metrics = losses(*params, state.teacher, batch, key)
      return generator + auxiliary, metrics

    params = state.student.params, state.auxiliary.params
    grads, metrics = training.gradients(loss, params, batch, key, c.microbatches)
    state = update_auxiliary(update_student(state, grads[0]), grads[1])
    return state, metrics | _gradient_norms(*grads)

  def alternating_step(state, batch, key):
    num_updates = 1 + c.auxiliary_updates
    parts = training.split_batch(batch, num_updates), jax.random.split(key, num_updates)
    first, first_key = jax.tree.map(lambda x: x[0], parts)

    def generator_loss(eta, batch, key):
      loss, _, metrics = losses(eta, state.auxiliary.params, state.teacher, batch, key)
      return loss, metrics

    student_grads, metrics = training.gradients(
      generator_loss, state.student.params, first, first_key, c.microbatches
    )
    state = update_student(state, student_grads)

    def auxiliary_update(state, inputs):
      def auxiliary_loss(phi, batch, key):
        return losses(state.student.params, phi, state.teacher, batch, key, score=False)[1:]

      grads, _ = training.gradients(auxiliary_loss, state.auxiliary.params, *inputs, c.microbatches)
      return update_auxiliary(state, grads), grads

    rest = jax.tree.map(lambda x: x[1:], parts)
    state, grads = jax.lax.scan(auxiliary_update, state, rest)
    last = jax.tree.map(lambda g: g[-1], grads)
    return state, metrics | _gradient_norms(student_grads, last)

  if score_alone:
    return init, score_step
  return init, joint_step if c.updates == "joint" else alternating_step


def make_losses(
  config, dataset, denoiser: Denoiser, student: Denoiser
) -> Callable[..., tuple[jax.Array, jax.Array | None, dict[str, jax.Array]]]:
  """`losses(eta, phi, theta, batch, key)`: the student's loss, the auxiliary's, and metrics.

  With the method `dmmd_kernel`, `score=False` leaves out the kernel score and its second noise.
  """
  c = config.distill
  method = dmmd.DMMD(
    process=denoiser.process,
    steps=c.student_nfe,
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
    num_blocks=denoiser.num_blocks,
    independent_times=c.method != "dmmd" and c.score.objective == "marginal",
  )

  teacher_denoiser = denoiser.guided(c.guidance)

  def predictor(denoiser, batch):
    denoiser = denoiser.given(batch)
    return denoiser.log_probs if method.prediction == "leave_one_out" else denoiser.log_mean

  exact = c.teacher == "exact"
  score_of = make_score(config, dataset, denoiser)

  def score_losses(eta, phi, theta, batch, key):
    corrupt_key, noise_key, score_key = jax.random.split(key, 3)
    start = dmmd.corrupt(method, batch.tokens, corrupt_key)
    z_t, _, t = (jnp.repeat(part, c.score.num_noises, axis=0) for part in start)
    log_p = student.given(batch).log_mean(eta, z_t, t, noise_key)
    score = score_of(theta, log_p, batch, z_t, t, score_key)
    entropies = map_positions(entropy, log_p)
    entropy_of_active = mean_where(entropies, method.process.active(z_t))
    return score, None, {"kernel_score_loss": score, "entropy": entropy_of_active}

  def dmmd_losses(eta, phi, theta, batch, key, score=True):
    teacher = predictor(teacher_denoiser, batch)
    if exact:
      teacher = build.exact_teacher(dataset, method.process)
    networks = dmmd.Networks(
      teacher=functools.partial(teacher, theta),
      student=predictor(student, batch),
      auxiliary=predictor(denoiser, batch),
    )
    with_score = score and c.method == "dmmd_kernel"
    rollout_key, score_key = jax.random.split(key)
    num_noises = c.score.num_noises if with_score else 1
    r = dmmd.rollout(method, networks.student, eta, batch.tokens, rollout_key, num_noises)
    generator, auxiliary, metrics = dmmd.dmmd_losses(method, networks, phi, r)
    if with_score:
      score = score_of(theta, r.log_mean, batch, r.z_t, r.t, score_key)
      generator = c.dmmd_weight * generator + score
      metrics["kernel_score_loss"] = score
    return generator, auxiliary, metrics

  return score_losses if c.method == "kernel_score" else dmmd_losses


def make_score(config, dataset, denoiser: Denoiser) -> Callable[..., jax.Array]:
  """`score(theta, log_mean, batch, z_t, t, key)` of `config.distill.score`.

  `log_mean`, `z_t` and `t` are those of all noises, as `dmmd.rollout` gives them; `batch` is the
  data that `z_t` came from.
  """
  c, distill = config.distill.score, config.distill
  method = kernel_score.KernelScore(
    denoiser.process, tuple(kernel_score.Scale(*scale) for scale in c.scales), c.category_bandwidth
  )
  exact = distill.teacher == "exact"
  teacher = denoiser.guided(distill.guidance)

  def score(theta, log_mean, batch, z_t, t, key):
    x, blocks = batch.tokens, denoiser.num_blocks
    z_t, t = z_t[:: c.num_noises], t[:: c.num_noises]
    if c.target == "teacher":
      predict = teacher.given(batch).log_mean
      if exact:
        predict = build.exact_teacher(dataset, denoiser.process)
      predict = functools.partial(predict, theta)
      drawn = finish_sample(
        predict, denoiser.process, key, z_t, t, c.target_nfe, distill.temperature, distill.top_p
      )
      x = drawn.tokens
    if c.objective != "marginal":
      blank = t >= 1.0 if c.objective == "pooled" else None
      return kernel_score.conditional_score(method, log_mean, x, z_t, blocks, blank)
    log_mean = Deferred(lambda a: a[:: c.num_noises], (log_mean,))
    if blocks > 1:
      # Blocks as examples of their own: their laws, given the blocks before, are what is matched.
      log_mean = whole(log_mean)
      rows = len(x) * blocks
      log_mean, x, z_t = (a.reshape(rows, -1, *a.shape[2:]) for a in (log_mean, x, z_t))
    return kernel_score.marginal_mmd2(method, log_mean, x, z_t, blocks)

  return score


def _gradient_norms(student_grads, auxiliary_grads) -> dict[str, jax.Array]:
  return {
    "student_gradient_norm": optax.tree.norm(student_grads),
    "auxiliary_gradient_norm": optax.tree.norm(auxiliary_grads),
  }
