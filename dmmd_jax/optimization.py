"""Parameters with their optimiser, their averages, and gradients by parts of a batch."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

# What is added to the root of a mean square.
_EPSILON = 1e-8


@flax.struct.dataclass
class Trainable:
  """Parameters with the state of their optimiser, after `count` updates."""

  params: Any
  opt_state: Any
  count: jax.Array

  @classmethod
  def create(cls, params, optimizer: optax.GradientTransformation) -> "Trainable":
    return cls(params, optimizer.init(params), jnp.zeros((), jnp.int32))

  @jax.named_scope("optimizer")
  def update(self, grads, optimizer: optax.GradientTransformation) -> "Trainable":
    updates, opt_state = optimizer.update(grads, self.opt_state, self.params)
    return Trainable(optax.apply_updates(self.params, updates), opt_state, self.count + 1)


def make_optimizer(config, num_steps: int) -> optax.GradientTransformation:
  """AdamW with warm-up, then `constant`, `linear` or `cosine` decay, and global-norm clipping.

  `config` is a section `optimizer`, whose `moments` may be less than Adam's.
  """
  warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup_steps)
  decay_steps = max(num_steps - config.warmup_steps, 1)
  decay = {
    "constant": optax.constant_schedule(config.learning_rate),
    "linear": optax.linear_schedule(config.learning_rate, 0.0, decay_steps),
    "cosine": optax.cosine_decay_schedule(config.learning_rate, decay_steps),
  }[config.decay]
  return optax.chain(
    optax.clip_by_global_norm(config.clip_norm),
    optax.chain(
      _scale_by_moments(config),
      optax.add_decayed_weights(config.weight_decay),
      optax.scale_by_learning_rate(optax.join_schedules([warmup, decay], [config.warmup_steps])),
    ),
  )


def _scale_by_moments(config) -> optax.GradientTransformation:
  """Adam's scaling (arXiv 1412.6980), or Adafactor's with Adam's decay (1804.04235, Algorithm 4).

  Without a mean of gradients where `b1` is 0.
  """
  if config.moments == "factored":
    squares = optax.scale_by_factored_rms(
      decay_rate=config.b2, decay_rate_fn=_unbiased_decay, epsilon=_EPSILON**2
    )
    mean = [optax.ema(config.b1, accumulator_dtype=jnp.bfloat16)] if config.b1 else []
    return optax.chain(squares, optax.clip_by_block_rms(1.0), *mean)
  if config.b1 == 0:
    return optax.scale_by_rms(config.b2, _EPSILON, eps_in_sqrt=False, bias_correction=True)
  return optax.scale_by_adam(config.b1, config.b2, _EPSILON, mu_dtype=config.moments)


def _unbiased_decay(step: jax.Array, decay: float) -> jax.Array:
  """What makes a moving average from zero at step 0 that which Adam corrects for its bias."""
  weight = lambda count: 1.0 - decay ** count.astype(jnp.float32)
  return decay * weight(step) / weight(step + 1)


@jax.named_scope("optimizer")
def average(ema, model: Trainable, decay: float):
  """One step of the exponential moving average of a model's parameters, from its first update on.

  `ema` is a pytree like the parameters, `decay` in [0, 1), `model` has at least one update behind
  it. The random start has no part in it, however short the run (the bias correction of Adam, arXiv
  1412.6980, section 3, made at every step).
  """
  return optax.incremental_update(
    model.params, ema, (1.0 - decay) / (1.0 - decay ** model.count.astype(jnp.float32))
  )


def split_batch(batch, parts: int):
  """Arrays `[parts * B, ...]` as `[parts, B, ...]`, by turns, so that no device gives rows away."""
  return jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def gradients(loss: Callable, params, batch, key: jax.Array, parts: int = 1):
  """Gradient and metrics of `loss(params, batch, key) -> (scalar, metrics)`.

  The means over `parts` of the batch, taken one after the other: less memory for the same update.
  """
  gradient = jax.grad(loss, has_aux=True)
  if parts == 1:
    return gradient(params, batch, key)
  inputs = split_batch(batch, parts), jax.random.split(key, parts)
  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(gradient, params, *jax.tree.map(lambda x: x[0], inputs)),
  )

  def add(total, one):
    return jax.tree.map(jnp.add, total, gradient(params, *one)), None

  total, _ = jax.lax.scan(add, zeros, inputs)
  return jax.tree.map(lambda x: x / parts, total)
