"""Di4C: distillation through dimensional correlations (arXiv 2410.08709).

A student is a mixture of products over a latent `lambda`, its noise input:

    p(x | z_t) = 1/Lambda sum_lambda prod_d p_d(x_d | z_t, lambda)

over so many draws of the latent. With its marginals `p_d` of single tokens, the means over lambda,
what the mixture says of tokens *together* is

    c(x) = log p(x | z_t) - sum_d log p_d(x_d | z_t),

zero of a student whose latent changes nothing. A negative log-likelihood of `x` from a law `q` is
`-c(x)`, of a sample, and the rest, whose mean over `q` needs no sample: `sum_d KL(q_d | p_d)`, but
for a constant. This control variate takes most of the variance away. The losses (section 3):

- data, `q` the data given `z_t`: `w_t (-c(x_data)) + sum_d KL(teacher_d | p_d)`, with `w_t` large
  near `t = 1`, where all that matters is joint;
- from `t = delta` on consistency, `q` the student itself at `z_s`, one short step of the teacher
  from `z_t`: `-c(x_0) + sum_d KL(q_d | p_d)`, both without a gradient in `q`. So many short
  steps are composed to one, and their joint law with them;
- below `delta` the teacher itself, by every latent: the mean over lambda of
  `sum_d KL(teacher_d | p_d(lambda))`.

Here as in the authors' code for text: `w_t` weighs the correlation only, and every latent of an
example has a `z_s` and an `x_0` of its own. Different from it: the time is drawn per example, not
per batch; the student starts from the teacher, not from a student of SDTT; the latent is added at
all positions through a projection that starts at zero, where the authors give it a token of its
own. At that start `c` and its gradient vanish: the latent begins to matter through the marginals,
the sooner the larger `distill.noise_scale`.
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.categorical import draw, entropy, kl, mean_where, truncate, uniforms
from dmmd_jax.diffusion.processes import Masked
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.parts import Network, Parts
from dmmd_jax.distillation.rollout import with_prompts
from dmmd_jax.positions import Deferred, map_positions
from dmmd_jax.rules import Real, Whole, setting


def correlation(log_at: jax.Array, axis: int) -> jax.Array:
  """`c(x)` of log-probabilities `[B, positions..., Lambda, ...]` at tokens `x`, latents on `axis`.

  `[B, ...]`, in nats.
  """
  positions = tuple(range(1, axis))
  return _log_mean(log_at.sum(positions), 1) - _log_mean(log_at, axis).sum(positions)


def terms(
  log_p: jax.Array, log_theta: jax.Array, log_next: jax.Array, x: jax.Array, x_0: jax.Array
) -> tuple[jax.Array, ...]:
  """What the losses sum over positions.

  `log_p` and `log_next` `[B * Lambda, ..., K]` are the student's laws at `z_t` and at each `z_s`,
  `log_theta` `[B, ..., K]` or `[B * Lambda, ..., K]` that of the teacher, of whose latents the mean
  is taken; `x` int `[B, ...]` are data, `x_0` int `[B * Lambda, ...]` the draws of `log_next`.
  Log-probabilities of the student at `x`, `[B, ..., Lambda]`, and at every `x_0`,
  `[B, ..., Lambda, Lambda]`; then `[B, ...]`: `KL(teacher | p)`, `KL(next | p)`, the mean of
  `KL(teacher | p(lambda))` and that of the entropies of `p(lambda)`.
  """

  def of_latents(a: jax.Array, ndim: int) -> jax.Array:
    """`[B * n, ...]` to `[B, ..., n]`, the latents after the `ndim` axes of tokens."""
    return jnp.moveaxis(a.reshape(len(x), -1, *a.shape[1:]), 1, ndim)

  log_p, log_theta, log_next = (of_latents(a, x.ndim) for a in (log_p, log_theta, log_next))
  at_x = jnp.take_along_axis(log_p, x[..., None, None], -1)[..., 0]
  at_x_0 = jnp.take_along_axis(log_p, of_latents(x_0, x.ndim)[..., None, :], -1)
  log_theta, log_next = (_log_mean(a, -2) for a in (log_theta, log_next))
  marginal = _log_mean(log_p, -2)
  to_each = kl(log_theta[..., None, :], log_p).mean(-1)
  kls = kl(log_theta, marginal), kl(log_next, marginal), to_each
  return at_x, at_x_0, *kls, entropy(log_p).mean(-1)


def _log_mean(log_probs: jax.Array, axis: int) -> jax.Array:
  return jax.nn.logsumexp(log_probs, axis) - math.log(log_probs.shape[axis])


@dataclasses.dataclass(frozen=True)
class Di4CSettings:
  """The section `distill.di4c` of a config."""

  num_latents: int = setting(16, Whole(2, 1000), "Lambda, the latents of an example.")
  data_weight: float = setting(0.1, Real("[0, 1000]"), "Of the data's correlation at t = 1.")
  delta: float = setting(
    0.02, Real("[0, 1)"), "The time below which the student follows the teacher, not itself."
  )
  share_below: float = setting(0.3, Real("[0, 1]"), "Share of the examples with times below delta.")
  teacher_steps: int = setting(
    1024, Whole(1, 2**24), "The teacher's step from z_t to z_s is so small a part of time, or t/2."
  )
  passes: int = setting(
    1,
    Whole(1, 100),
    "Equal parts of the steps; in all but the first the teacher is the student so far (Di4C^2).",
  )


@dataclasses.dataclass(frozen=True)
class Di4C:
  """Mixtures over a latent, by consistency (arXiv 2410.08709).

  With more `passes` the student of each is the teacher of the next, as a mixture over so many
  latents, of which its marginals are the means; the optimiser goes on. That teacher costs as many
  evaluations as there are latents.
  """

  parts: Parts
  di4c: Di4CSettings = dataclasses.field(default_factory=Di4CSettings)

  noises = ("latent", "gaussian", "pyramid")
  batches_per_step = 1

  def init(self, key: jax.Array, teacher: Any) -> updates.State:
    state = updates.init(self.parts, key, teacher)
    if self.di4c.passes == 1:
      return state
    # With a latent that says nothing yet, so that all teachers are alike.
    dtype = self.parts.training.teacher_dtype
    return state.replace(teacher=jax.tree.map(lambda x: x.astype(dtype), state.ema))

  def step(self, state, batch, key: jax.Array):
    state, metrics = updates.update_student_by(self.parts, self.loss, state, batch, key)
    if self.di4c.passes > 1:
      ended = updates.round_ended(self.parts.training, self.di4c.passes, state.student.count)
      state = state.replace(teacher=updates.promote(ended, state.ema, state.teacher))
    return state, metrics

  def loss(self, eta, theta, batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Nats per position, and metrics."""
    p, c, x = self.parts, self.di4c, batch.tokens
    keys = jax.random.split(key, 8)
    t = self._times(keys[0], len(x))
    z_t = with_prompts(p.process.corrupt(keys[1], x, t), x, batch.prompts)
    # From here on every example has a row for each of its latents.
    z, times = (jnp.repeat(a, c.num_latents, axis=0) for a in (z_t, t))
    student = p.student.given(batch)
    if c.passes > 1:
      log_theta = each = self._teacher(student, theta, z, times, keys[2])
    else:
      log_theta = self._teacher(p.teacher.given(batch), theta, z_t, t, None)
      each = Deferred(lambda a: jnp.repeat(a, c.num_latents, axis=0), (log_theta,))
    x_hat = map_positions(draw, each, uniforms(keys[3], z.shape))
    s = times - jnp.minimum(1.0 / c.teacher_steps, times / 2.0)
    z_s = p.process.sample_posterior(keys[4], z, x_hat, s, times)
    log_next = self._law(student, jax.lax.stop_gradient(eta), z_s, s, keys[5])
    x_0 = map_positions(draw, log_next, uniforms(keys[6], z.shape))
    log_p = self._law(student, eta, z, times, keys[7])
    at_x, at_x_0, *kls, entropies = map_positions(terms, log_p, log_theta, log_next, x, x_0)
    to_teacher, to_next, each_to_teacher = (a.sum(range(1, x.ndim)) for a in kls)

    of_data = correlation(at_x, x.ndim)
    of_next = correlation(at_x_0, x.ndim).mean(-1)
    weight = c.data_weight * jax.nn.sigmoid(20.0 * (t - 0.5))
    data = to_teacher - weight * of_data
    consistency = jnp.where(t < c.delta, each_to_teacher, to_next - of_next)
    positions = x[0].size
    metrics = {
      "data_loss": data.mean() / positions,
      "consistency_loss": consistency.mean() / positions,
      "correlation": of_next.mean() / positions,
      "entropy": mean_where(entropies, p.process.active(z_t)),
    }
    return metrics["data_loss"] + metrics["consistency_loss"], metrics

  def _times(self, key: jax.Array, num: int) -> jax.Array:
    """Times `[num]`, even above `delta` and even below it."""
    c = self.di4c
    below_key, time_key = jax.random.split(key)
    share_below = c.share_below if c.delta else 0.0
    below = jax.random.uniform(below_key, (num,)) < share_below
    u = losses.sample_times(time_key, num)
    return jnp.where(below, c.delta * u, c.delta + (1.0 - c.delta) * u)

  def _law(self, network: Network, params: Any, z, t, key) -> jax.Array | Deferred:
    """The law of clean tokens at `z`; a network may say anything of visible ones."""
    log_x = network.log_mean(params, z, t, key)
    if not isinstance(self.parts.process, Masked):
      return log_x
    return Deferred(self.parts.process.to_mean, (log_x, z, t))

  def _teacher(self, network: Network, params: Any, z, t, key) -> Deferred:
    p = self.parts

    def as_sampled(log_x):
      return truncate(log_x, p.temperature, p.top_p, p.top_p_penalty)

    return Deferred(as_sampled, (self._law(network, params, z, t, key),))

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill = config.distill
    passes, block = distill.di4c.passes, config.network.get("block", 0)
    if block:
      yield (
        f"network.block is {block}; the products of di4c are over all tokens of an example: set it"
        " to 0"
      )
    if passes > distill.num_steps:
      yield (
        f"distill.di4c.passes is {passes} with distill.num_steps={distill.num_steps}; expected at"
        " least one step for each: lower it"
      )
    if distill.from_prior:
      yield (
        "distill.from_prior is True; the student of di4c follows itself a step later, down to"
        " t = 0: set it to False"
      )
    if passes > 1:
      yield from updates.problems_of_truncation(config)
    if passes > 1 and distill.teacher == "exact":
      yield (
        f"distill.di4c.passes is {passes} with distill.teacher='exact'; later passes have the"
        " student as their teacher, which is not exact: set it to 1"
      )
