"""Trains a diffusion model: the teacher."""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from dmmd_jax import optimization, training
from dmmd_jax.data.pipeline import Batch, Batches
from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.processes import spread
from dmmd_jax.digest import digest
from dmmd_jax.integrity import by_contents, by_size
from dmmd_jax.phases import build
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.positions import mean_positions
from dmmd_jax.records import Sources, depends


@flax.struct.dataclass
class TeacherState:
  """`ema` is the average of the parameters, which other phases use."""

  model: optimization.Trainable
  ema: Any


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: Sources
) -> dict[str, Any]:
  """Trains a denoiser on the data set for `config.teacher.num_steps` steps."""
  c = config.teacher
  denoiser = build.make_denoiser(config, dataset)
  optimizer = optimization.make_optimizer(c.optimizer, c.num_steps)

  job = training.Job(
    name="teacher",
    num_steps=c.num_steps,
    init=lambda key, _: initial_state(denoiser.init(key), optimizer),
    step=make_step(config, denoiser, optimizer),
    batches=Batches(dataset, c.batch_size, config.run.seed, config.run.data_workers),
  )
  return trained(job, workdir, config, mesh, sources)


def trained(
  job: training.Job, workdir: epath.Path, config, mesh: jax.sharding.Mesh, sources: Sources
) -> dict[str, Any]:
  """Runs a job to its end, and returns what its record says of the last checkpoint.

  That is its `step`, the `digest` of its averaged parameters, and notes of its `files`.
  """
  folder = workdir / job.name
  job = dataclasses.replace(job, origin=depends(config, job.name, sources))
  state = training.train(job, folder, config.run, mesh)
  return result_of(folder, job.num_steps, state.ema)


def result_of(folder: epath.Path, step: int, ema: Any) -> dict[str, Any]:
  """What a record says of the checkpoint of `step` in the folder of a phase."""
  files = by_size(folder, f"checkpoints/{step}")
  # What lies in folders `d` are arrays, which have digests.
  files |= by_contents(folder, [name for name in files if "/d/" not in name])
  return {"step": step, "digest": digest(ema), "files": files}


def initial_state(params, optimizer: optax.GradientTransformation) -> TeacherState:
  return TeacherState(optimization.Trainable.create(params, optimizer), params)


def make_step(config, denoiser: Denoiser, optimizer: optax.GradientTransformation):
  """`step(state, batch, key)`: one update of the teacher and of its average."""
  c = config.teacher
  return supervised_step(
    lambda params, batch, key: teacher_loss(params, denoiser.in_training(), c, batch, key),
    optimizer,
    c,
    in_bits=c.loss == "bound",
  )


def supervised_step(loss, optimizer: optax.GradientTransformation, config, in_bits: bool):
  """`step(state, batch, key)` that lowers `loss(params, batch, key)`, in nats per token.

  `config` has `ema` and `microbatches`.
  """

  def loss_and_metrics(params, batch, key):
    value = loss(params, batch, key)
    return value, {"loss": value}

  def step(state, batch, key):
    grads, metrics = optimization.gradients(
      loss_and_metrics, state.model.params, batch, key, config.microbatches
    )
    model = state.model.update(grads, optimizer)
    metrics["gradient_norm"] = optax.tree.norm(grads)
    if in_bits:
      metrics["bits_per_token"] = metrics["loss"] / jnp.log(2.0)
    return TeacherState(model, optimization.average(state.ema, model, config.ema)), metrics

  return step


def teacher_loss(params, denoiser: Denoiser, config, batch: Batch, key: jax.Array):
  """The loss `config.loss` at random times, in nats per token; some labels are dropped."""
  if denoiser.num_classes:
    key, drop_key = jax.random.split(key)
    dropped = jax.random.uniform(drop_key, batch.labels.shape) < config.label_dropout
    batch = batch._replace(labels=jnp.where(dropped, denoiser.num_classes, batch.labels))
  steps = config.num_timesteps
  loss = losses.cross_entropy if config.loss == "cross_entropy" else losses.bound
  if config.loss == "bound" and steps:
    loss = functools.partial(losses.discrete_bound, num_timesteps=steps)
  mean, _ = losses_at_random_times(loss, params, denoiser, batch, key, steps)
  return mean


def losses_at_random_times(
  loss, params, denoiser: Denoiser, batch: Batch, key, num_timesteps: int = 0
) -> tuple[jax.Array, jax.Array]:
  """The mean of `loss` over a batch, corrupted at low-discrepancy times, and that of each position.

  The former alone has a gradient.
  """
  x = batch.tokens
  time_key, corrupt_key, noise_key = jax.random.split(key, 3)
  t = losses.sample_times(time_key, x.shape[0] * denoiser.num_blocks, num_timesteps)
  t = spread(t, denoiser.num_blocks, x.shape[1])
  z_t = denoiser.process.corrupt(corrupt_key, x, t)
  log_x_hat = denoiser.given(batch).log_probs(params, z_t, t, noise_key)

  def of_position(log_x_hat, x, z_t, t):
    target = jax.nn.one_hot(x, denoiser.process.num_categories)
    nats = loss(denoiser.process, target, log_x_hat, z_t, t)
    return (nats,), nats

  (mean,), nats = mean_positions(of_position, log_x_hat, x, z_t, t)
  return mean, nats


def negative_elbo(
  denoiser: Denoiser,
  params,
  tokens: np.ndarray,
  seed: int,
  batch_size: int,
  draws: int = 8,
  prompts: np.ndarray | None = None,
) -> np.ndarray:
  """The continuous-time bound of tokens `[n, ...]` in nats per token, `[n]`, each at `draws` times.

  For a network trained with the bound, or a masked one. The first `prompts` `[n]` tokens are given,
  and do not count.
  """

  @jax.jit
  def bound(params, batch, key):
    _, nats = losses_at_random_times(losses.bound, params, denoiser, batch, key)
    given = 0 if batch.prompts is None else batch.prompts
    nats = nats.reshape(len(nats), -1)
    return nats.sum(-1) / (nats.shape[1] - given)

  found, batch_size = [], min(batch_size, len(tokens))
  for start in range(0, len(tokens), batch_size):
    batch = np.asarray(tokens[start : start + batch_size], np.int32)
    # The last batch is filled up with examples that it has, to be compiled once.
    x = np.resize(batch, (batch_size, *batch.shape[1:]))
    given = None
    if prompts is not None:
      given = np.resize(prompts[start : start + batch_size], batch_size).astype(np.int32)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), start), draws)
    bounds = [bound(params, Batch(x, None, given), key) for key in keys]
    found.append(np.mean(bounds, 0)[: len(batch)])
  return np.concatenate(found)
