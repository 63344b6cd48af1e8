"""Di[M]O: a masked model made into a generator of one step (arXiv 2503.15457).

The generator (parameters `eta`) sees an input of a fixed share of masks and otherwise random
tokens, and noise, and all tokens `x` of an example are drawn from its one prediction. Masked anew
at a time `t`, `x` is what teacher (`theta`) and auxiliary model (`phi`) predict from; the auxiliary
model learns what the generator makes, and the divergence between their predictions is lowered as
if it were the generator's logits, at the positions that are masked, that the auxiliary model
predicts with:

    gradient in the generator's logits = p_phi(z_t) - p_theta(z_t)      of the forward KL.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.categorical import (
  draw,
  entropy,
  log_prob_of,
  mean_where,
  truncate,
  uniforms,
)
from dmmd_jax.diffusion.processes import Masked
from dmmd_jax.diffusion.samplers import Predict, Prompt, Samples
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.rollout import with_prompts
from dmmd_jax.positions import map_positions, mean_positions
from dmmd_jax.rules import Choice, Real, setting


@dataclasses.dataclass(frozen=True)
class DiMOSettings:
  """The section `distill.dimo` of a config."""

  mask_ratio: float = setting(
    0.6, Real("(0, 1]"), "Share of masks in the generator's input; the rest are random tokens."
  )
  divergence: str = setting(
    "forward_kl",
    Choice(("forward_kl", "jeffreys")),
    "forward_kl: KL(teacher | auxiliary) | jeffreys: mixed with KL(auxiliary | teacher).",
  )
  jeffreys_weight: float = setting(
    0.5, Real("[-1, 1]"), "Share of the reverse KL in jeffreys; below 0 it is taken away."
  )
  label_smoothing: float = setting(
    0.1, Real("[0, 1)"), "Share of the auxiliary model's targets that is even over all tokens."
  )


@dataclasses.dataclass(frozen=True)
class DiMO(updates.WithAuxiliary):
  """Di[M]O: one step, from masks and random tokens (arXiv 2503.15457).

  Where a student rests the auxiliary model predicts as the teacher, and with label smoothing the
  student is then sharper than the teacher: the authors' choice. Their release masks anew an exact
  number of tokens, from an arccosine law of its own; here each token is masked by itself, with the
  process and its schedule at `t ~ U(0, 1)`. Means are over all positions, where the release divides
  the auxiliary model's loss by the number of masks.
  """

  dimo: DiMOSettings = dataclasses.field(default_factory=DiMOSettings)

  noises = ("gaussian", "pyramid", "latent")

  def losses(self, eta, phi, theta, batch, key: jax.Array, for_student: bool = True):
    """Losses of student and auxiliary model, and metrics.

    Of `batch` labels, prompts and shape count.

    The student's loss has the gradient of the method, but no value of its own: `divergence` has.
    """
    del for_student  # an update of the auxiliary model is compiled without what it does not use
    p = self.parts
    input_key, noise_key, x_key, time_key, mask_key = jax.random.split(key, 5)
    z_1 = self.make_input(p.process, input_key, batch.tokens.shape)
    t_1 = jnp.ones(len(z_1))
    log_p = p.student.given(batch).log_mean(eta, z_1, t_1, noise_key)
    x = map_positions(draw, log_p, uniforms(x_key, z_1.shape))
    t = losses.sample_times(time_key, len(x))
    z_t = with_prompts(p.process.corrupt(mask_key, x, t), x, batch.prompts)
    log_theta = p.teacher.given(batch).log_mean(theta, z_t, t)
    log_phi = p.auxiliary.given(batch).log_mean(phi, z_t, t)
    (generator, auxiliary), (divergence, entropies) = mean_positions(
      self._losses_of_position, log_theta, log_phi, log_p, x, z_t
    )
    return generator, auxiliary, {
      "divergence": mean_where(divergence, p.process.active(z_t)),
      "auxiliary_loss": auxiliary,
      "entropy": entropies.mean(),
    }  # fmt: skip

  @jax.named_scope("vocabulary")
  def _losses_of_position(self, log_theta, log_phi, log_p, x, z_t):
    """Shaped like `z_t`: losses of generator and auxiliary; their divergence, entropy of `x`."""
    p, c = self.parts, self.dimo
    log_theta = jax.lax.stop_gradient(log_theta)
    log_theta = truncate(log_theta, p.temperature, p.top_p, p.top_p_penalty)
    is_masked = p.process.active(z_t)
    gradient, divergence = logit_gradient(c, jax.lax.stop_gradient(log_phi), log_theta)
    # It sums to 0, so that in log-probabilities it is what it is in logits.
    generator = jnp.where(is_masked, (gradient * log_p).sum(-1), 0.0)
    of_x = log_prob_of(log_phi, x)
    occurs = log_phi > -1e6  # not so the categories that fill a vocabulary up
    of_all = jnp.where(occurs, log_phi, 0.0).sum(-1) / occurs.sum(-1)
    smoothed = (1.0 - c.label_smoothing) * of_x + c.label_smoothing * of_all
    auxiliary = jnp.where(is_masked, -smoothed, 0.0)
    return (generator, auxiliary), (divergence, entropy(log_p))

  def make_input(self, process: Masked, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws inputs of the generator, int `[B, ...]`: in each as many masks, in random places."""
    place_key, token_key = jax.random.split(key)
    order = jax.random.uniform(place_key, (shape[0], *shape[1:])).reshape(shape[0], -1)
    rank = jnp.argsort(jnp.argsort(order, axis=1), axis=1).reshape(shape)
    num_masks = max(round(self.dimo.mask_ratio * order.shape[1]), 1)
    tokens = jax.random.randint(token_key, shape, 0, self.parts.num_tokens)
    return jnp.where(rank < num_masks, process.num_categories, tokens)

  def sample(
    self,
    predict: Predict,
    process: Masked,
    key: jax.Array,
    shape: tuple[int, ...],
    nfe: int | jax.Array,
    temperature: float = 1.0,
    top_p: float = 1.0,
    with_path: bool = False,
    prompt: Prompt | None = None,
  ) -> Samples:
    """Draws tokens of `shape` `[B, ...]` from one evaluation of `predict`, whatever `nfe` says."""
    del nfe  # see `num_steps`
    input_key, predict_key, x_key = jax.random.split(key, 3)
    z_1 = self.make_input(process, input_key, shape)

    def draw_position(log_p, u):
      log_p = truncate(log_p, temperature, top_p)
      return draw(log_p, u), entropy(log_p)

    predict = prompt.shown(predict, process) if prompt else predict
    log_p = predict(z_1, jnp.ones(shape[:1]), predict_key)
    x, entropies = map_positions(draw_position, log_p, uniforms(x_key, shape))
    x = prompt.put(x) if prompt else x
    return Samples(x, entropies.mean(), jnp.stack([z_1, x]) if with_path else None)

  @staticmethod
  def num_steps(nfe: int) -> int:
    """In how many steps `sample` draws when it is asked for `nfe`."""
    del nfe
    return 1

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill, block = config.distill, config.network.get("block", 0)
    if config.process.name != "masked":
      yield (
        f"distill.method is 'dimo' and process.name is {config.process.name!r}; Di[M]O masks what"
        " it has drawn: use process.name='masked'"
      )
    if distill.student_nfe != 1:
      yield (
        f"distill.student_nfe is {distill.student_nfe}; Di[M]O makes a student of one step: set it"
        " to 1"
      )
    if distill.from_prior:
      yield (
        "distill.from_prior is True; a student of Di[M]O starts from masks and random tokens, at"
        " distill.dimo.mask_ratio: set it to False"
      )
    if block:
      yield (f"network.block is {block}; a student of Di[M]O draws all tokens at once: set it to 0")


def logit_gradient(
  c: DiMOSettings, log_phi: jax.Array, log_theta: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Gradient in the logits of `log_phi` `[..., K]` of a divergence to `log_theta`, and its value.

  Both are log-probabilities; the gradient is `[..., K]`, the divergence `[...]` in nats.
  """
  phi, theta = jnp.exp(log_phi), jnp.exp(log_theta)
  forward = (theta * (log_theta - log_phi)).sum(-1)
  if c.divergence == "forward_kl":
    return phi - theta, forward
  log_ratio = log_phi - log_theta
  reverse = (phi * log_ratio).sum(-1)
  of_reverse = phi * (log_ratio - reverse[..., None])
  w = c.jeffreys_weight
  return (1 - w) * (phi - theta) + w * of_reverse, (1 - w) * forward + w * reverse
