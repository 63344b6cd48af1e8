"""Trains a diffusion model: the teacher."""

import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmmd_jax import training
from dmmd_jax.data.pipeline import batches
from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.processes import spread
from dmmd_jax.phases import build


@flax.struct.dataclass
class TeacherState:
  """`ema` is the average of the parameters, the model to sample from and to distil."""

  model: training.Trainable
  ema: Any


def run(config, dataset, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
  """Trains a denoiser on the data set for `config.teacher.num_steps` steps."""
  c = config.teacher
  denoiser = build.make_denoiser(config, dataset)
  optimizer = training.make_optimizer(c.optimizer, c.num_steps)

  job = training.Job(
    name="teacher",
    num_steps=c.num_steps,
    init=lambda key, _: initial_state(denoiser.init(key), optimizer),
    step=make_step(config, denoiser, optimizer),
    batches=lambda start: batches(dataset.train, c.batch_size, config.run.seed, start),
  )
  training.train(job, workdir / job.name, config.run, mesh)


def initial_state(params, optimizer: optax.GradientTransformation) -> TeacherState:
  return TeacherState(training.Trainable.create(params, optimizer), params)


def make_step(config, denoiser: build.Denoiser, optimizer: optax.GradientTransformation):
  """`step(state, batch, key)`: one update of the teacher and of its average."""
  c = config.teacher

  def step(state, x, key):
    loss, grads = jax.value_and_grad(teacher_loss)(state.model.params, denoiser, c, x, key)
    model = state.model.update(grads, optimizer)
    metrics = {"loss": loss, "gradient_norm": optax.tree.norm(grads)}
    if c.loss == "bound":
      metrics["bits_per_token"] = loss / jnp.log(2.0)
    return TeacherState(model, training.average(state.ema, model.params, c.ema)), metrics

  return step


def teacher_loss(params, denoiser: build.Denoiser, config, x: jax.Array, key: jax.Array):
  """The loss `config.loss` at random times, in nats per token, for tokens int `[B, ...]`."""
  process, steps = denoiser.process, config.num_timesteps
  time_key, corrupt_key, noise_key = jax.random.split(key, 3)
  t = losses.sample_times(time_key, x.shape[0] * denoiser.num_blocks, steps)
  t = spread(t, denoiser.num_blocks, x.shape[1])
  z_t = process.corrupt(corrupt_key, x, t)
  log_x_hat = denoiser.given(x).log_probs(params, z_t, t, noise_key)
  target = jax.nn.one_hot(x, process.num_categories)
  if config.loss == "cross_entropy":
    return losses.cross_entropy(process, target, log_x_hat, z_t, t).mean()
  if steps:
    return losses.discrete_bound(process, target, log_x_hat, z_t, t, steps).mean()
  return losses.bound(process, target, log_x_hat, z_t, t).mean()


def negative_elbo(denoiser: build.Denoiser, params, tokens, seed: int, draws: int = 8):
  """The continuous-time bound of tokens `[n, ...]` in nats per token, `[n]`, each at `draws` times.

  For a network trained with the bound, or a masked one.
  """

  @jax.jit
  def bound(x, key):
    time_key, corrupt_key, noise_key = jax.random.split(key, 3)
    t = losses.sample_times(time_key, x.shape[0] * denoiser.num_blocks)
    t = spread(t, denoiser.num_blocks, x.shape[1])
    z_t = denoiser.process.corrupt(corrupt_key, x, t)
    log_x_hat = denoiser.given(x).log_probs(params, z_t, t, noise_key)
    target = jax.nn.one_hot(x, denoiser.process.num_categories)
    nats = losses.bound(denoiser.process, target, log_x_hat, z_t, t)
    return nats.reshape(len(x), -1).mean(-1)

  found = []
  for batch in np.array_split(np.asarray(tokens, np.int32), max(1, len(tokens) // 128)):
    # In this order the times of an example are spread over [0, 1].
    tiled = jnp.tile(batch, (draws,) + (1,) * (batch.ndim - 1))
    nats = bound(tiled, jax.random.fold_in(jax.random.key(seed), len(found)))
    found.append(np.asarray(nats).reshape(draws, len(batch)).mean(0))
  return np.concatenate(found)
