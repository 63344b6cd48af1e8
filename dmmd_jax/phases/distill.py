"""Distils the teacher into a student of a few steps, by the method of the config."""

from collections.abc import Callable
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from dmmd_jax import training
from dmmd_jax.config_network import check_guidance_by_labels
from dmmd_jax.data.pipeline import Batches
from dmmd_jax.distillation import registry
from dmmd_jax.distillation.low_rank import LowRank
from dmmd_jax.distillation.parts import Method, Parts, Training
from dmmd_jax.optimization import make_optimizer
from dmmd_jax.phases import build
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.phases.teacher import teacher_loss, trained
from dmmd_jax.records import Sources


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: Sources
) -> dict[str, Any]:
  """Runs `config.distill.num_steps` steps of a method."""
  c = config.distill
  if c.guidance:
    check_guidance_by_labels(sources["teacher"].config)
  method = make_method(config, dataset)
  job = training.Job(
    name="distill",
    num_steps=c.num_steps,
    init=method.init,
    step=method.step,
    batches=Batches(
      dataset, method.batches_per_step * c.batch_size, config.run.seed + 1, config.run.data_workers
    ),
    given=build.load_ema(sources["teacher"], method.parts.auxiliary.init, mesh),
  )
  return trained(job, workdir, config, mesh, sources)


def make_method(config, dataset) -> Method:
  """The method that `config.distill` selects, with its settings."""
  cls = registry.find(config.distill.method)
  sections = {
    name: settings(**config.distill.get(name, {}))
    for name, settings in registry.settings(cls).items()
  }
  method = cls(make_parts(config, dataset), **sections)
  return LowRank(method, config.distill.lora_rank) if config.distill.lora_rank else method


def make_parts(config, dataset) -> Parts:
  """What any method is given."""
  c = config.distill
  denoiser = build.make_denoiser(config, dataset)
  teacher = denoiser.guided(c.guidance)
  if c.teacher == "exact":
    teacher = build.ExactTeacher(dataset.joint, denoiser.process)
  return Parts(
    process=denoiser.process,
    teacher=teacher,
    student=build.make_denoiser(config, dataset, student=True),
    auxiliary=denoiser,
    prediction=denoiser.prediction,
    num_tokens=dataset.num_categories,
    num_blocks=denoiser.num_blocks,
    student_nfe=c.student_nfe,
    from_prior=c.from_prior,
    temperature=c.temperature,
    top_p=c.top_p,
    top_p_penalty=c.top_p_penalty,
    training=make_training(c),
    teacher_loss=make_teacher_loss(config.teacher.loss, denoiser),
  )


def make_teacher_loss(name: str, denoiser: Denoiser) -> Callable:
  """`loss(params, batch, key)` of a teacher, `bound` or `cross_entropy`, in nats per token.

  At continuous times, and with all labels.
  """
  config = ConfigDict({"loss": name, "num_timesteps": 0, "label_dropout": 0.0})
  denoiser = denoiser.in_training()
  return lambda params, batch, key: teacher_loss(params, denoiser, config, batch, key)


def make_training(config) -> Training:
  """How `config.distill` says that a method is trained."""
  c = config
  auxiliary_steps = c.num_steps * (1 if c.updates == "joint" else c.auxiliary_updates)
  return Training(
    num_steps=c.num_steps,
    batch_size=c.batch_size,
    microbatches=c.microbatches,
    ema=c.ema,
    teacher_dtype=c.teacher_dtype,
    student_optimizer=make_optimizer(c.student_optimizer, c.num_steps),
    auxiliary_optimizer=make_optimizer(c.auxiliary_optimizer, auxiliary_steps),
    updates=c.updates,
    auxiliary_updates=c.auxiliary_updates,
  )
