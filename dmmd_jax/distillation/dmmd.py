"""Discrete Moment Matching Distillation (D-MMD, arXiv 2603.20155, Algorithm 1).

A student (parameters `eta`) is distilled from a frozen teacher (`theta`) with the help of an
auxiliary model (`phi`) that tracks what the student generates. With any diffusion loss `L_s` the
min-max objective is (Eq. 9)

    max over phi, min over eta:  L_s(x, theta) - L_s(x, phi) - lambda L_s(theta, phi)

where `x` is the student's output and all predictions are made at `z_s`, a partly denoised sample.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.categorical import entropy, mean_where, truncate
from dmmd_jax.diffusion.processes import expand
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.rollout import Rollout, Steps, rollout
from dmmd_jax.positions import Deferred, mean_positions
from dmmd_jax.rules import Choice, Real, setting

DIFFUSION_LOSSES = {
  "cross_entropy": losses.cross_entropy,
  "bound": losses.bound,
  "squared_error": losses.squared_error,
}


@dataclasses.dataclass(frozen=True)
class Objective(Steps):
  """The choices of the losses of D-MMD; the defaults are the paper's.

  The `prediction` `leave_one_out` goes with the `bound` of a process other than the masked one
  (paper, Appendix D).
  """

  # L_s of Eq. 9, one of DIFFUSION_LOSSES.
  loss: str = "cross_entropy"
  # "soft": the student's p, of lower variance, for the masked process only; "hard": its sample.
  auxiliary_target: str = "soft"
  # lambda: how strongly the auxiliary model is held to the teacher.
  teacher_weight: float = 1.0
  # w(s), one of losses.WEIGHTS.
  weight: str = "constant"
  # The teacher is distilled as it would be sampled; excluded categories lose this many nats.
  temperature: float = 1.0
  top_p: float = 1.0
  top_p_penalty: float = 2.0


class Networks(NamedTuple):
  """The three networks as functions that return log-probabilities float32 `[B, ..., K]`.

  These may be deferred.
  """

  teacher: Callable[[jax.Array, jax.Array], jax.Array | Deferred]  # (z, t)
  student: Callable[[object, jax.Array, jax.Array, jax.Array], jax.Array | Deferred]  # eta, z, …
  auxiliary: Callable[[object, jax.Array, jax.Array], jax.Array | Deferred]  # (phi, z, t)


def dmmd_losses(
  method: Objective, networks: Networks, phi: object, r: Rollout
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
  method: Objective,
  log_theta: jax.Array,
  log_phi: jax.Array,
  log_p: jax.Array,
  log_mean: jax.Array,
  x: jax.Array,
  z_s: jax.Array,
  s: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Shaped like `z_s`: losses of generator and auxiliary; entropy of `x`, `KL(theta | phi)`."""
  weight = expand(losses.WEIGHTS[method.weight](method.process, s), z_s)
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


@dataclasses.dataclass(frozen=True)
class DMMDSettings:
  """The section `distill.dmmd` of a config."""

  loss: str = setting("cross_entropy", Choice(tuple(DIFFUSION_LOSSES)), "L_s of Eq. 9.")
  auxiliary_target: str = setting(
    "soft",
    Choice(("soft", "hard")),
    "soft: p, of lower variance, masked only | hard: a sample of p.",
  )
  teacher_weight: float = setting(1.0, Real("[0, 1000]"), "lambda of Eq. 12.")
  weight: str = setting("constant", Choice(tuple(losses.WEIGHTS)), "w(s).")
  renoise: str = setting(
    "posterior",
    Choice(("posterior", "forward")),
    "posterior: z_s ~ q(z_s | z_t, x) | forward: z_s ~ q(z_s | x), as in IDLM.",
  )


@dataclasses.dataclass(frozen=True)
class DMMD(updates.WithAuxiliary):
  """Discrete Moment Matching Distillation (arXiv 2603.20155)."""

  dmmd: DMMDSettings = dataclasses.field(default_factory=DMMDSettings)

  def losses(self, eta, phi, theta, batch, key: jax.Array, for_student: bool = True):
    """Losses of student and auxiliary model, and metrics, on a rollout of its own."""
    rollout_key, _ = jax.random.split(key)
    networks = self.networks(theta, batch)
    r = rollout(
      self.objective, networks.student, eta, batch.tokens, rollout_key, prompts=batch.prompts
    )
    return dmmd_losses(self.objective, networks, phi, r)

  @property
  def objective(self) -> Objective:
    p, c = self.parts, self.dmmd
    return Objective(
      process=p.process,
      steps=p.student_nfe,
      from_prior=p.from_prior,
      # The bound wants what networks say themselves, all else E[x | z_t].
      prediction=p.prediction if c.loss == "bound" else "mean",
      num_blocks=p.num_blocks,
      temperature=p.temperature,
      top_p=p.top_p,
      top_p_penalty=p.top_p_penalty,
      **dataclasses.asdict(c),
    )

  def networks(self, theta: Any, batch: Any) -> Networks:
    """The three networks for a batch, in the meaning that the loss wants."""

    def predictor(network):
      network = network.given(batch)
      own = self.objective.prediction == "leave_one_out"
      return network.log_probs if own else network.log_mean

    p = self.parts
    return Networks(
      teacher=functools.partial(predictor(p.teacher), theta),
      student=predictor(p.student),
      auxiliary=predictor(p.auxiliary),
    )

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    """Processes other than the masked one have fewer choices."""
    distill, c, process = config.distill, config.distill.dmmd, config.process.name
    if c.weight == "elbo" and c.loss == "bound":
      yield (
        "distill.dmmd.weight is 'elbo' and distill.dmmd.loss is 'bound', which has that weight in"
        " it: use distill.dmmd.weight='constant'"
      )
    if process == "masked":
      return
    if c.auxiliary_target != "hard":
      yield (
        f"distill.dmmd.auxiliary_target is 'soft' with the {process} process; there a sample and"
        " z_s are dependent given z_t: use 'hard'"
      )
    if c.weight == "elbo":
      yield (
        f"distill.dmmd.weight is 'elbo' with the {process} process; it is the weight of the"
        " masked bound: use 'constant'"
      )
    if c.loss != "bound":
      return
    if config.teacher.loss != "bound":
      yield (
        f"distill.dmmd.loss is 'bound' with the {process} process and a teacher trained with"
        " cross-entropy; train it with teacher.loss='bound', or use"
        " distill.dmmd.loss='cross_entropy'"
      )
    if distill.top_p != 1 or distill.temperature != 1:
      yield (
        "distill.temperature and distill.top_p act on E[x | z_t], which distill.dmmd.loss='bound'"
        f" does not use with the {process} process; use distill.dmmd.loss='cross_entropy'"
      )
    if distill.teacher == "exact":
      yield (
        "distill.teacher='exact' gives E[x | z_t], which distill.dmmd.loss='bound' does not use"
        f" with the {process} process; use distill.dmmd.loss='cross_entropy'"
      )
