"""ReDi: rectified discrete flow (arXiv 2507.15897), and its masked form (IMDM, arXiv 2605.10518).

Tokens that a teacher draws in many steps from noise `x_T` are coupled with it, which those of data
are not. A student that is trained as ever, but on couples `(x_T, x_0)` and with the noise tokens of

    z_t[d] = x_0[d] with probability alpha_t, else x_T[d],

meets less conditional correlation of the tokens of `x_0`, and needs fewer steps. The couples are
drawn once, before the first step; rectification may be repeated with couples of the student.

Masked: all `x_T` are equal and say nothing, so the student's own noise takes the place of `x_T`. It
belongs to the couple (whose seed is stored), in training at all `t` as in all steps of a sample
(`ReDi.sample`). A teacher that knows no noise would make couples of independent parts; IMDM
trains one that does first. We let the noise decide the teacher's draws: of three normal numbers of
every token, through the normal distribution function, one says when it is revealed, and two at
which quantile of the prediction it is drawn then. So `x_0` has the law of ancestral sampling,
exactly, and is a function of the noise, which one step can learn. Couples of a student have its
noise, and draws of their own, as in IMDM.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses, samplers
from dmmd_jax.diffusion.categorical import draw, entropy, mean_where, truncate
from dmmd_jax.diffusion.processes import Masked, expand
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.parts import Parts
from dmmd_jax.positions import map_positions, mean_positions
from dmmd_jax.rules import Choice, Whole, setting

# Normal numbers that decide on a token: when it is revealed, and two for `draw`.
_PER_TOKEN = 3


class Couples(NamedTuple):
  """Tokens `x_0` int32 `[N, *shape]` with the noise they were drawn from, and their labels `[N]`.

  The noise are tokens `x_T` int32 `[N, *shape]` of the prior, or for the masked process that of the
  student, of `seeds` uint32 `[N]`.
  """

  tokens: jax.Array
  labels: jax.Array | None
  prior: jax.Array | None
  seeds: jax.Array | None
  prompts: None = None  # as a batch has them; a config with prompts is refused

  @property
  def keys(self) -> jax.Array | None:
    """Those of the student's noise `[N]`."""
    return None if self.seeds is None else jax.vmap(jax.random.key)(self.seeds)


@flax.struct.dataclass
class State(updates.State):
  couples: Couples


def follow_noise(
  predict: samplers.Predict, process: Masked, noise: jax.Array, z: jax.Array, nfe: int, **how: float
) -> jax.Array:
  """Ancestral sampling from masks `z` int `[B, ...]` in `nfe` steps, as normal `noise` decides.

  `noise` `[B, positions..., channels]` has at least three channels for each token of a position;
  `how` are temperature and top-p. The law of the tokens is that of `samplers.ancestral_sample`.
  """
  num = _PER_TOKEN * z.size // noise[..., 0].size
  u = jax.scipy.stats.norm.cdf(noise[..., :num]).reshape(*z.shape, _PER_TOKEN)
  u = jnp.minimum(u, 1.0 - 2.0**-24)  # draws need numbers below 1, which float32 rounds to
  order, quantiles = u[..., 0], u[..., 1:]

  def step(i, z_t):
    t, s = (jnp.full(len(z), (nfe - j) / nfe) for j in (i, i + 1))
    x = map_positions(
      lambda log_x, u: draw(truncate(log_x, **how), u), predict(z_t, t, None), quantiles
    )
    # Masked at s with probability beta_s, so given that it is at t with beta_s / beta_t.
    revealed = order >= expand(process.schedule.beta(s), z)
    return jnp.where(process.active(z_t) & revealed, x, z_t)

  return jax.lax.fori_loop(0, nfe, step, z)


@dataclasses.dataclass(frozen=True)
class ReDiSettings:
  """The section `distill.redi` of a config."""

  num_pairs: int = setting(20_000, Whole(1), "Couples that are stored.")
  nfe: int = setting(1024, Whole(1, 2**24), "Steps in which their tokens are drawn.")
  chunk: int = setting(
    500, Whole(1), "Couples drawn at a time, a divisor of num_pairs: less memory, the same couples."
  )
  rounds: int = setting(
    1,
    Whole(1, 100),
    "Equal parts of the steps; at the start of all but the first the student draws new couples.",
  )
  loss: str = setting(
    "bound",
    Choice(("bound", "cross_entropy")),
    "As teacher.loss: bound, of a teacher trained with it | cross_entropy, of any.",
  )


@dataclasses.dataclass(frozen=True)
class ReDi:
  """Rectification (arXiv 2507.15897; masked: after IMDM, 2605.10518); no teacher in the steps.

  Batches of data are not looked at. In later rounds couples are drawn by the student's average;
  student and optimiser go on.
  """

  parts: Parts
  redi: ReDiSettings = dataclasses.field(default_factory=ReDiSettings)

  noises = ("gaussian", "pyramid", "none")
  batches_per_step = 1

  def init(self, key: jax.Array, teacher: Any) -> State:
    init_key, key = jax.random.split(key)
    state = updates.init(self.parts, init_key, teacher, keep_teacher=False)
    couples = self.draw_couples(teacher, key, by_student=False)
    # Each device keeps a part of them.
    boxed = jax.tree.map(lambda x: nn.LogicallyPartitioned(x, _names(x)), couples)
    return State(**vars(state), couples=boxed)

  def step(self, state: State, batch: Any, key: jax.Array):
    couples_key, rows_key, key = jax.random.split(key, 3)
    if self.redi.rounds > 1:
      begins = updates.round_ended(self.parts.training, self.redi.rounds, state.student.count)
      draw_again = functools.partial(self.draw_couples, key=couples_key, by_student=True)
      couples = jax.lax.cond(begins, draw_again, lambda _: state.couples, state.ema)
      state = state.replace(couples=couples)
    rows = jax.random.randint(rows_key, (len(batch.tokens),), 0, self.redi.num_pairs)
    chosen = jax.tree.map(lambda x: x[rows], state.couples)
    return updates.update_student_by(self.parts, self.loss, state, chosen, key)

  def loss(self, eta, theta, couples: Couples, key: jax.Array):
    """Nats per position of couples, and metrics."""
    p, x = self.parts, couples.tokens
    time_key, keep_key = jax.random.split(key)
    t = jnp.ones(len(x)) if p.from_prior else losses.sample_times(time_key, len(x))
    kept = jax.random.uniform(keep_key, x.shape) < expand(p.process.schedule.alpha(t), x)
    # All masks are alike.
    x_1 = p.process.sample_prior(keep_key, x.shape) if couples.prior is None else couples.prior
    z_t = jnp.where(kept, x, x_1)
    student = p.student.given(couples)
    own = self.redi.loss == "bound"
    log_x = (student.log_probs if own else student.log_mean)(eta, z_t, t, couples.keys)
    loss = losses.bound if own else losses.cross_entropy

    def of_position(log_x, x, z_t, t):
      target = jax.nn.one_hot(x, p.process.num_categories)
      nats = loss(p.process, target, log_x, z_t, t)
      by_itself = own and p.prediction == "leave_one_out"
      return (nats,), entropy(p.process.to_mean(log_x, z_t, t) if by_itself else log_x)

    (value,), entropies = mean_positions(of_position, log_x, x, z_t, t)
    of_active = mean_where(entropies, p.process.active(z_t))
    return value, {"redi_loss": value, "entropy": of_active}

  def draw_couples(self, params: Any, key: jax.Array, by_student: bool) -> Couples:
    """`num_pairs` couples of the teacher, or of a student, with parameters `params`."""
    c = self.redi
    num_chunks = c.num_pairs // c.chunk
    keys = jax.random.split(key, num_chunks)
    draw_chunk = functools.partial(self._draw_chunk, params, by_student=by_student)
    chunks = jax.lax.map(draw_chunk, keys)
    # By turns, so that devices that share the couples share every chunk.
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), chunks)

  def _draw_chunk(self, params: Any, key: jax.Array, by_student: bool) -> Couples:
    p, c = self.parts, self.redi
    prior_key, seed_key, draw_key, label_key = jax.random.split(key, 4)
    shape, num_classes = (c.chunk, *p.auxiliary.shape), p.auxiliary.num_classes
    labels = jax.random.randint(label_key, shape[:1], 0, num_classes) if num_classes else None
    x_1, seeds = p.process.sample_prior(prior_key, shape), None
    if isinstance(p.process, Masked):
      seeds = jax.random.bits(seed_key, shape[:1])
    couples = Couples(x_1, labels, x_1, seeds)
    network = (p.student if by_student else p.teacher).given(couples)
    predict = functools.partial(network.log_mean, params)
    if seeds is None:
      x_0 = self._finish(predict, draw_key, x_1)
    elif by_student:
      x_0 = self._finish(lambda z, t, _: predict(z, t, couples.keys), draw_key, x_1)
    else:
      noise = p.student.noise(couples.keys, x_1)
      x_0 = follow_noise(
        predict, p.process, noise, x_1, c.nfe, temperature=p.temperature, top_p=p.top_p
      )
    return couples._replace(tokens=x_0, prior=x_1 if seeds is None else None)

  def _finish(self, predict: samplers.Predict, key: jax.Array, z: jax.Array) -> jax.Array:
    p, t = self.parts, jnp.ones(len(z))
    return samplers.finish_sample(
      predict, p.process, key, z, t, self.redi.nfe, p.temperature, p.top_p
    ).tokens

  @staticmethod
  def sample(
    predict: samplers.Predict, process: Any, key: jax.Array, *args: Any, **kwargs: Any
  ) -> samplers.Samples:
    """`samplers.ancestral_sample` with the same noise of the student in all steps."""
    noise_key, key = jax.random.split(key)

    def with_one_noise(z, t, key):
      return predict(z, t, noise_key)

    return samplers.ancestral_sample(with_one_noise, process, key, *args, **kwargs)

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill, c = config.distill, config.distill.redi
    process, block = config.process.name, config.network.get("block", 0)
    if c.num_pairs % c.chunk:
      yield (
        f"distill.redi.chunk is {c.chunk}; expected a divisor of distill.redi.num_pairs"
        f" ({c.num_pairs})"
      )
    if c.rounds > distill.num_steps:
      yield (
        f"distill.redi.rounds is {c.rounds} with distill.num_steps={distill.num_steps}; expected at"
        " least one step for each: lower it"
      )
    if c.rounds > 1:
      yield from updates.problems_of_truncation(config)
    if block:
      yield f"network.block is {block}; couples of redi are of whole examples: set it to 0"
    if config.dataset.name == "chats":
      yield "dataset.name is 'chats'; couples of redi have no prompts: use another method"
    if process == "masked":
      tokens = shape[2] if len(shape) == 3 else 1
      if distill.noise == "none":
        yield (
          "distill.noise is 'none' with the masked process, where it decides what the"
          " teacher draws at each position: use 'gaussian' or 'pyramid'"
        )
      elif distill.noise_dim < _PER_TOKEN * tokens:
        yield (
          f"distill.noise_dim is {distill.noise_dim}; expected at least {_PER_TOKEN * tokens},"
          f" three numbers for each of {tokens} tokens of a position"
        )
      # Here the slope of alpha is 0 at t = 1, and with it the bound's weight.
      if c.loss == "bound" and distill.from_prior and config.process.schedule == "cosine":
        yield _no_bound_of_prior("cosine schedule")
      return
    if distill.noise != "none":
      yield (
        f"distill.noise is '{distill.noise}' with the {process} process; the student's noise is the"
        " couple's x_T: use 'none'"
      )
    if c.loss == "bound" and config.teacher.loss != "bound":
      yield (
        f"distill.redi.loss is 'bound' with the {process} process and a teacher trained with"
        " cross-entropy; train it with teacher.loss='bound', or use"
        " distill.redi.loss='cross_entropy'"
      )
    if c.loss == "bound" and distill.from_prior:
      yield _no_bound_of_prior(f"{process} process")


def _no_bound_of_prior(of: str) -> str:
  return (
    f"distill.from_prior is True; at t = 1 the bound of the {of} is 0: use"
    " distill.redi.loss='cross_entropy'"
  )


def _names(x: jax.Array) -> tuple[str | None, ...]:
  return ("batch", *(None,) * (x.ndim - 1))
