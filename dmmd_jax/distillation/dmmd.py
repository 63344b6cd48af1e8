"""Discrete Moment Matching Distillation (D-MMD, arXiv 2603.20155, Algorithm 1).

A student (parameters `eta`) is distilled from a frozen teacher (`theta`) with the help of an
auxiliary model (`phi`) that tracks what the student generates. With any diffusion loss `L_s` the
min-max objective is (Eq. 9)

    max over phi, min over eta:  L_s(x, theta) - L_s(x, phi) - lambda L_s(theta, phi)

where `x` is the student's output and all predictions are made at `z_s`, a partly denoised sample.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.categorical import draw, entropy, mean_where, truncate, uniforms
from dmmd_jax.diffusion.processes import Masked, Process, expand, spread
from dmmd_jax.positions import Deferred, map_positions, mean_positions

DIFFUSION_LOSSES = {
  "cross_entropy": losses.cross_entropy,
  "bound": losses.bound,
  "squared_error": losses.squared_error,
}
WEIGHTS = {"constant": losses.constant_weight, "elbo": losses.elbo_weight}


@dataclasses.dataclass(frozen=True)
class DMMD:
  """The choices of D-MMD; the defaults are the paper's.

  `prediction` is what all three networks' outputs mean, `mean` or `leave_one_out`; the latter
  goes with the `bound` of a process other than the masked one (paper, Appendix D).
  """

  process: Process
  # k, the number of sampling steps that the student is distilled for: t - s < 1/k.
  steps: int = 8
  # L_s of Eq. 9, one of DIFFUSION_LOSSES.
  loss: str = "cross_entropy"
  # "soft": the student's p, of lower variance, for the masked process only; "hard": its sample.
  auxiliary_target: str = "soft"
  # lambda: how strongly the auxiliary model is held to the teacher.
  teacher_weight: float = 1.0
  # w(s), one of WEIGHTS.
  weight: str = "constant"
  # The teacher is distilled as it would be sampled; excluded categories lose this many nats.
  temperature: float = 1.0
  top_p: float = 1.0
  top_p_penalty: float = 2.0
  # z_s ~ q(z_s | z_t, x) ("posterior"), or q(z_s | x) ("forward": IDLM, arXiv 2602.19066).
  renoise: str = "posterior"
  # True: t = 1 always, the one-step setting of DiMO (arXiv 2503.15457).
  from_prior: bool = False
  prediction: str = "mean"
  # Blocks of a sequence, each at a time of its own (block-autoregressive diffusion).
  num_blocks: int = 1
  # Times of a batch that are independent, as all pairs of a batch need them, in place of times that
  # cover [0, 1] evenly, which are better for a mean over single examples.
  independent_times: bool = False


class Networks(NamedTuple):
  """The three networks as functions that return log-probabilities float32 `[B, ..., K]`.

  These may be deferred.
  """

  teacher: Callable[[jax.Array, jax.Array], jax.Array | Deferred]  # (z, t)
  student: Callable[[object, jax.Array, jax.Array, jax.Array], jax.Array | Deferred]  # eta, z, …
  auxiliary: Callable[[object, jax.Array, jax.Array], jax.Array | Deferred]  # (phi, z, t)


class Rollout(NamedTuple):
  """One step of the student: its prediction at `z_t`, a sample `x` of it, and `z_s`.

  `log_mean` `[B, ..., K]` is the law of `x`, `log_p` what the losses at `z_s` take in its place
  (`laws`); both are differentiable in the student's parameters, `x` and `z_s` are not.
  """

  z_t: jax.Array
  t: jax.Array
  log_p: jax.Array | Deferred
  log_mean: jax.Array | Deferred
  x: jax.Array
  z_s: jax.Array
  s: jax.Array


def corrupt(
  method: DMMD, x_data: jax.Array, key: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws `s`, `t` within `1/steps` above it (or 1), and `z_t ~ q(z_t | x_data)`: `z_t, s, t`."""
  time_key, step_key, corrupt_key = jax.random.split(key, 3)
  draw = losses.independent_times if method.independent_times else losses.sample_times
  s = draw(time_key, x_data.shape[0] * method.num_blocks)
  t = jnp.minimum(1.0, s + jax.random.uniform(step_key, s.shape) / method.steps)
  if method.from_prior:
    t = jnp.ones_like(s)
  s, t = (spread(times, method.num_blocks, x_data.shape[1]) for times in (s, t))
  return method.process.corrupt(corrupt_key, x_data, t), s, t


def laws(
  method: DMMD, log_x_hat: jax.Array | Deferred, z_t: jax.Array, t: jax.Array
) -> tuple[jax.Array | Deferred, jax.Array | Deferred]:
  """`log_p` and `log_mean` of a rollout, from the student's prediction `[B, ..., K]` at `z_t`.

  `log_mean` is the law that `x` is drawn from. `log_p` is the soft target of the losses at `z_s`.
  The bound weighs it with `q(z_s | x)` itself, so that it wants what is known of `x` but for that:
  after a posterior step the `leave_one_out` prediction at `z_t`, which the step combines with
  `z_t`; after forward renoising, where `z_s` depends on `x` alone, the law of `x`.
  """
  log_mean = log_x_hat
  # A network may say anything of visible tokens; only renoised from scratch do they take part.
  visible = method.renoise == "forward" and isinstance(method.process, Masked)
  if visible or method.prediction == "leave_one_out":
    log_mean = Deferred(method.process.to_mean, (log_x_hat, z_t, t))
  return (log_mean if method.renoise == "forward" else log_x_hat), log_mean


def rollout(
  method: DMMD,
  student: Callable,
  eta: object,
  x_data: jax.Array,
  key: jax.Array,
  num_noises: int = 1,
) -> Rollout:
  """Corrupts data int `[B, ...]`, lets the student predict, and steps to `z_s` (Algorithm 1).

  With more noises every `z_t` is seen by so many students that differ in their noise only: all
  arrays are `[B * num_noises, ...]`, an example's own in a row (and so on one device).
  """
  process = method.process
  corrupt_key, noise_key, x_key, z_key = jax.random.split(key, 4)
  start = corrupt(method, x_data, corrupt_key)
  z_t, s, t = (jnp.repeat(part, num_noises, axis=0) for part in start)
  log_p, log_mean = laws(method, student(eta, z_t, t, noise_key), z_t, t)
  x = map_positions(draw, log_mean, uniforms(x_key, z_t.shape))
  if method.renoise == "forward":
    z_s = process.corrupt(z_key, x, s)
  else:
    z_s = process.sample_posterior(z_key, z_t, x, s, t)
  return Rollout(z_t, t, log_p, log_mean, x, z_s, s)


def dmmd_losses(
  method: DMMD, networks: Networks, phi: object, r: Rollout
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
  """Generator loss (Eq. 11), auxiliary loss (Eq. 12) and metrics of one rollout of the student.

  Both losses are in units of `L_s`, averaged over examples and positions. The first has a gradient
  in `eta` (through the rollout) only, the second in `phi` only: differentiate one of them for an
  alternating update, or their sum for a joint one.
  """
  of_position = functools.partial(_losses_of_position, method)
  predictions = networks.teacher(r.z_s, r.s), networks.auxiliary(phi, r.z_s, r.s)
  (generator_loss, auxiliary_loss), (entropies, gap) = mean_positions(
    of_position, *predictions, r.log_p, r.log_mean, r.x, r.z_s, r.s
  )
  metrics = {
    "generator_loss": generator_loss,
    "auxiliary_loss": auxiliary_loss,
    "entropy": mean_where(entropies, method.process.active(r.z_t)),
    "teacher_auxiliary_gap": mean_where(gap, method.process.active(r.z_s)),
  }
  return generator_loss, auxiliary_loss, metrics


@jax.named_scope("vocabulary")
def _losses_of_position(
  method: DMMD,
  log_theta: jax.Array,
  log_phi: jax.Array,
  log_p: jax.Array,
  log_mean: jax.Array,
  x: jax.Array,
  z_s: jax.Array,
  s: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Shaped like `z_s`: losses of generator and auxiliary; entropy of `x`, `KL(theta | phi)`."""
  weight = expand(WEIGHTS[method.weight](method.process, s), z_s)
  log_theta = jax.lax.stop_gradient(log_theta)
  log_theta = truncate(log_theta, method.temperature, method.top_p, method.top_p_penalty)
  p, theta = jnp.exp(log_p), jnp.exp(log_theta)

  def loss(target: jax.Array, log_x_hat: jax.Array) -> jax.Array:
    return weight * DIFFUSION_LOSSES[method.loss](method.process, target, log_x_hat, z_s, s)

  if method.auxiliary_target == "soft":
    target = jax.lax.stop_gradient(p)
  else:
    target = jax.nn.one_hot(x, method.process.num_categories)
  generator = loss(p, log_theta) - loss(p, jax.lax.stop_gradient(log_phi))
  auxiliary = loss(target, log_phi) + method.teacher_weight * loss(theta, log_phi)
  gap = (theta * (log_theta - log_phi)).sum(-1)
  return (generator, auxiliary), (entropy(log_mean), gap)
