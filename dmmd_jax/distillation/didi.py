"""DiDi-Instruct: a student rewarded by a discriminator (arXiv 2509.25035).

The student (parameters `eta`) draws `x` in two steps, 1 -> tau -> 0. Masked anew at tau, samples
are told from data by a discriminator (`phi`), whose logits are log-ratios of densities. The KL
divergence of samples to data, at all tau, is lowered by policy gradients:

    gradient = E[ omega(tau) advantage(x) grad log p_eta(x) ]

where the advantage is the mean log-ratio at masked positions, normalised in groups of samples that
have tau in common.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.categorical import draw, entropy, kl, log_prob_of, uniforms
from dmmd_jax.diffusion.processes import expand
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.rollout import with_prompts
from dmmd_jax.positions import Deferred, map_positions, mean_positions
from dmmd_jax.rules import Choice, Real, Whole, setting

# What a group's standard deviation is at least, so that rewards that are equal but for rounding,
# as at the start, are no reason to move.
_LEAST_DEVIATION = 1e-4


@dataclasses.dataclass(frozen=True)
class DiDiSettings:
  """The section `distill.didi` of a config."""

  group_size: int = setting(
    4, Whole(2, 1000), "Samples per example of a batch, whose rewards are compared."
  )
  kl_weight: float = setting(0.01, Real("[0, 1000]"), "Of KL(teacher | student).")
  entropy_weight: float = setting(0.02, Real("[0, 1000]"), "Of the student's entropy.")
  weight: str = setting("constant", Choice(tuple(losses.WEIGHTS)), "omega(tau).")


class Path(NamedTuple):
  """Two steps of a student: its predictions at 1 and tau, the state between, and the tokens.

  `log_first`, `log_second` `[B, ..., K]`, `z_tau` and `x` int `[B, ...]`; `z_1` is all masks.
  """

  z_1: jax.Array
  log_first: jax.Array | Deferred
  z_tau: jax.Array
  log_second: jax.Array | Deferred
  x: jax.Array


@dataclasses.dataclass(frozen=True)
class DiDi(updates.WithAuxiliary):
  """DiDi-Instruct: policy gradients of a discriminator's log-ratios (arXiv 2509.25035).

  Their discriminator is the teacher with a head of its own, trained in its last four blocks. Here
  it is the auxiliary model as a whole, whose logit at a masked position is

      log p_phi(x_d | z_tau) - log p_theta(x_d | z_tau),

  0 at the start, trained to tell tokens of samples from tokens of data. Log-probabilities are
  normalised: the logit is a ratio of the laws of a token given the visible ones, exact where these
  are as likely in samples as in data, and 0 everywhere where samples have the law of the data.
  Labels are not smoothed. Both regularisers are sums over the two steps, at masked positions.
  Their guided sampler, which needs the discriminator, is left out: the student is sampled as any
  other. `student_nfe` has no part in training.
  """

  didi: DiDiSettings = dataclasses.field(default_factory=DiDiSettings)

  takes_low_rank = False  # the discriminator's network is asked with the teacher's parameters

  def losses(self, eta, phi, theta, batch, key: jax.Array, for_student: bool = True):
    """Losses of student and discriminator, and metrics: a group of samples for each example."""
    del for_student  # an update of the discriminator is compiled without what it does not use
    p, size = self.parts, self.didi.group_size
    time_key, path_key, fake_key, data_key = jax.random.split(key, 4)
    tau = losses.sample_times(time_key, len(batch.tokens))
    of_group = jnp.repeat(tau, size)
    path = self.draw_path(eta, batch, of_group, path_key)
    fakes = with_prompts(p.process.corrupt(fake_key, path.x, of_group), path.x, batch.prompts)
    data = with_prompts(p.process.corrupt(data_key, batch.tokens, tau), batch.tokens, batch.prompts)
    of_fakes = self.log_ratios(phi, theta, batch, fakes, of_group, path.x)
    of_data = self.log_ratios(phi, theta, batch, data, tau, batch.tokens)
    discriminator = (
      jnp.where(p.process.active(fakes), jax.nn.softplus(-of_fakes), 0.0).mean()
      + jnp.where(p.process.active(data), jax.nn.softplus(of_data), 0.0).mean()
    )
    rewards = mean_of_rows(of_fakes, p.process.active(fakes))
    advantages = jax.lax.stop_gradient(normalise(rewards, size))
    advantages *= losses.WEIGHTS[self.didi.weight](p.process, of_group)
    teacher = p.teacher.given(batch)
    (loss,), (divergence, entropies) = mean_positions(
      self._loss_of_position,
      path.log_first,
      path.log_second,
      teacher.log_mean(theta, path.z_1, jnp.ones(len(of_group))),
      teacher.log_mean(theta, path.z_tau, of_group),
      path.x,
      path.z_tau,
      advantages,
    )
    return loss, discriminator, {
      "log_ratio": rewards.mean(),
      "auxiliary_loss": discriminator,
      "teacher_student_kl": divergence.mean(),
      "entropy": entropies.mean(),
    }  # fmt: skip

  def draw_path(self, eta: Any, batch: Any, tau: jax.Array, key: jax.Array) -> Path:
    """Draws tokens for times `tau` `[B * group_size]`, a group in a row for each example."""
    process, student = self.parts.process, self.parts.student.given(batch)
    prior_key, *keys = jax.random.split(key, 6)
    shape = (len(tau), *batch.tokens.shape[1:])
    z_1, t_1 = process.sample_prior(prior_key, shape), jnp.ones_like(tau)
    log_first = student.log_mean(eta, z_1, t_1, keys[0])
    x = map_positions(draw, log_first, uniforms(keys[1], shape))
    z_tau = process.sample_posterior(keys[2], z_1, x, tau, t_1)
    log_second = student.log_mean(eta, z_tau, tau, keys[3])
    x = map_positions(draw, log_second, uniforms(keys[4], shape))
    return Path(z_1, log_first, z_tau, log_second, jnp.where(process.active(z_tau), x, z_tau))

  def log_ratios(self, phi, theta, batch, z, t, x) -> jax.Array:
    """Logits of the discriminator, shaped like `z`: above 0 where a token looks like a sample's."""
    network = self.parts.auxiliary.given(batch)
    predictions = network.log_mean(phi, z, t), network.log_mean(theta, z, t)
    return map_positions(lambda a, b, x: log_prob_of(a, x) - log_prob_of(b, x), *predictions, x)

  @jax.named_scope("vocabulary")
  def _loss_of_position(
    self, log_first, log_second, theta_first, theta_second, x, z_tau, advantage
  ):
    """Shaped like `x`: the student's loss; its divergence and its entropy, of both steps."""
    c, masked = self.didi, self.parts.process.active(z_tau)
    log_p = jnp.where(masked, log_prob_of(log_second, x), log_prob_of(log_first, x))

    def of_both(value, *arguments):
      first, second = (value(*pair) for pair in zip(*arguments, strict=True))
      return first + jnp.where(masked, second, 0.0)

    log_probs = log_first, log_second
    divergence = of_both(kl, (theta_first, theta_second), log_probs)
    entropies = of_both(entropy, log_probs)
    loss = expand(advantage, x) * log_p + c.kl_weight * divergence - c.entropy_weight * entropies
    return (loss,), (divergence, entropies)

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill, block = config.distill, config.network.get("block", 0)
    if config.process.name != "masked":
      yield (
        f"distill.method is 'didi' and process.name is {config.process.name!r}; DiDi-Instruct"
        " masks what it has drawn: use process.name='masked'"
      )
    if block:
      yield (
        f"distill.method is 'didi' and network.block is {block}; whole examples are drawn and"
        " compared: set it to 0"
      )
    if distill.from_prior:
      yield "distill.from_prior is True; DiDi-Instruct has its own two steps: set it to False"
    of_teacher = {"distill.teacher_dtype": distill.teacher_dtype}
    for field, dtype in (of_teacher | {"network.dtype": config.network.dtype}).items():
      if dtype != "float32":
        yield (
          f"{field} is {dtype!r}; rewards are small differences between the discriminator and the"
          " teacher it started from, which rounding would hide: use 'float32'"
        )
    if (distill.temperature, distill.top_p, distill.guidance) != (1, 1, 0):
      yield (
        "distill.temperature, distill.top_p and distill.guidance act on the teacher, where a"
        " student of DiDi-Instruct is compared with data: leave them at 1, 1 and 0"
      )


def mean_of_rows(values: jax.Array, where: jax.Array) -> jax.Array:
  """Means `[B]` of `values` `[B, ...]` where a bool `[B, ...]` holds; 0 where it nowhere does."""
  axes = tuple(range(1, values.ndim))
  return jnp.where(where, values, 0.0).sum(axes) / jnp.maximum(where.sum(axes), 1)


def normalise(rewards: jax.Array, group_size: int) -> jax.Array:
  """Rewards `[B]` with mean 0 and standard deviation 1 in each group of rows that are in a row."""
  groups = rewards.reshape(-1, group_size)
  centred = groups - groups.mean(1, keepdims=True)
  return (centred / (groups.std(1, keepdims=True) + _LEAST_DEVIATION)).reshape(-1)
