"""Kernel scores: match a student to the joint law of all tokens, exactly and in closed form.

A student's output is a mixture, over its noise, of products over tokens. For the Hamming kernel
`prod_d (c + (1 - c) 1[x_d = y_d])` expectations over samples of products are products again,

    E k(x, x') = prod_d (c + (1 - c) <p_d, p'_d>)     for x ~ p, x' ~ p' independent
    E k(x, y)  = prod_d (c + (1 - c) p_d[y_d])        for x ~ p and tokens y,

so that a Maximum Mean Discrepancy between samples is a smooth function of the probabilities: no
sampling, no straight-through estimator, no auxiliary network. The *conditional kernel score*

    S(eta) = E[ 1/2 E k(x, x') - E k(x, x_data) ],    z_t ~ q(z_t | x_data),

with `x` and `x'` from two noises at the same `z_t`, is half the MMD^2 between the student's law at
`z_t` and `q(x | z_t)`, but for a constant: expand `1/2 |mu_student - mu_data|^2` and drop the term
without `eta`. `x_data` is one exact draw from `q(x | z_t)`, which is all that the cross term needs.
The kernel is characteristic, so the score is strictly proper (Gneiting & Raftery 2007): its only
optimum is the joint conditional law, at any step size, down to one step from `z_1`. Continuous
relative: De Bortoli et al., arXiv 2502.02483.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import entropy, mean_where
from dmmd_jax.diffusion.samplers import finish_sample
from dmmd_jax.distillation import updates
from dmmd_jax.distillation.parts import ANY_NOISE, Parts
from dmmd_jax.distillation.rollout import Steps, corrupt
from dmmd_jax.distillation.sequence_kernel import Kernel, Scale, agreement, kernel, smooth
from dmmd_jax.positions import Deferred, map_positions, whole
from dmmd_jax.rules import Choice, Items, Real, Row, Whole, setting

_SCALE = Row(
  ("window", "stride", "bandwidths"), (Whole(), Whole(1), Items(Real("[0.1, inf)"), distinct=True))
)


def conditional_score(
  c: Kernel,
  log_p: jax.Array | Deferred,
  x: jax.Array,
  z_t: jax.Array,
  num_blocks: int = 1,
  blank: jax.Array | None = None,
) -> jax.Array:
  """The conditional kernel score, averaged over the batch; differentiable in `log_p`.

  `log_p` `[B * M, ..., K]` is the student's `log E[x | z_t, noise]` at each `z_t` int `[B, ...]`,
  for `M >= 2` independent noises in a row; `x` int `[B, ...]` a draw from `q(x | z_t)`. Each of
  `num_blocks` parts of a sequence is compared on its own, given the parts before it. With `blank`
  bool `[B]`, the `z_t` that say nothing of their `x`, as at `t = 1`, all of these are compared with
  the data of all of them: draws of one law, whose mean is the better target.
  """

  def agreements(log_p, x, z_t):
    p = jnp.exp(log_p)
    p = p.reshape(len(x), -1, *p.shape[1:])
    data = jax.nn.one_hot(x, c.process.num_categories)
    # Every noise with its neighbour: independent pairs are all that unbiasedness asks for.
    both = agreement(c, p, jnp.roll(p, 1, axis=1)), agreement(c, p, data[:, None])
    decided = ~c.process.active(z_t)[:, None]
    both = tuple(jnp.where(decided, 1.0, a).reshape(log_p.shape[:-1]) for a in both)
    if blank is None:
      return both
    of_pairs = jnp.einsum(
      "n...k,m...k->n...m", jnp.exp(log_p), smooth(c, data), precision="highest"
    )
    return *both, of_pairs

  shape = x.shape[1:] if num_blocks == 1 else (x.shape[1] // num_blocks,)
  among, with_data, *of_pairs = map_positions(agreements, log_p, x, z_t)
  among, with_data = (kernel(c, a.reshape(-1, *shape), len(shape)) for a in (among, with_data))
  if blank is not None:
    with_each = kernel(c, jnp.moveaxis(of_pairs[0], -1, 1), len(shape))
    with_all = jnp.where(blank, with_each, 0.0).sum(1) / jnp.maximum(blank.sum(), 1)
    with_data = jnp.where(jnp.repeat(blank, len(with_all) // len(x)), with_all, with_data)
  return (0.5 * among - with_data).mean()


def marginal_mmd2(
  c: Kernel,
  log_p: jax.Array | Deferred,
  x: jax.Array,
  z_t: jax.Array,
  num_blocks: int = 1,
) -> jax.Array:
  """Unbiased MMD^2 between the student's outputs, whatever `z_t`, and the data.

  `log_p` `[B, ..., K]`, `x` and `z_t` int `[B, ...]`; all pairs of different examples, so that row
  `i` of `z_t` may come from row `i` of `x`. Examples are `num_blocks` rows each, which may depend
  on one another; whole examples must not, so their times are drawn independently
  (`Steps.independent_times`): with times that cover [0, 1] evenly the estimate is biased.
  """
  num_categories, size = c.process.num_categories, len(x)
  example = jnp.arange(size) // num_blocks
  others = example[:, None] != example

  def agreements(log_p, x, z_t):
    """Of all pairs of examples, `[B, positions, ..., B]`: two of students, of data, of both."""
    data = jax.nn.one_hot(x, num_categories)
    # What is decided is a certain token.
    undecided = c.process.active(z_t)[..., None]
    p = jnp.where(undecided, jnp.exp(log_p), jax.nn.one_hot(z_t, num_categories))
    pairs = (p, p), (data, data), (p, data)
    return tuple(jnp.moveaxis(agreement(c, a[:, None], b[None]), 1, -1) for a, b in pairs)

  def mean_over_others(of_pairs):
    values = kernel(c, jnp.moveaxis(of_pairs, -1, 1), z_t.ndim - 1)
    return jnp.where(others, values, 0.0).sum() / (size * (size - num_blocks))

  student, data, both = map(mean_over_others, map_positions(agreements, log_p, x, z_t))
  return student + data - 2.0 * both


@dataclasses.dataclass(frozen=True)
class ScoreSettings:
  """The section `distill.score` of a config."""

  objective: str = setting(
    "conditional",
    Choice(("conditional", "pooled", "marginal")),
    "conditional: given z_t, strictly proper | pooled: so, but those at t = 1 share data |"
    " marginal: MMD^2 of a batch.",
  )
  num_noises: int = setting(
    2, Whole(1, 1000), "Student evaluations per z_t, each with noise of its own."
  )
  target: str = setting(
    "data",
    Choice(("data", "teacher")),
    "What outputs are compared with: the example that z_t came from | samples of the teacher.",
  )
  target_nfe: int = setting(16, Whole(1, 2**24), "Steps in which the teacher samples.")
  scales: tuple = setting(
    ((0, 1, (2.0, 8.0, 32.0)),),
    Items(_SCALE),
    "Kernels that are summed: window (0: all), stride, and bandwidths, in tokens or pixels.",
  )
  category_bandwidth: float = setting(
    0.0, Real("[0, inf)"), "Grey levels that count as near; 0: equal or not."
  )


@dataclasses.dataclass(frozen=True)
class Score:
  """The kernel score of a student's outputs, against data or samples of the teacher."""

  parts: Parts
  settings: ScoreSettings

  @property
  def independent_times(self) -> bool:
    """Whether all pairs of a batch are compared."""
    return self.settings.objective == "marginal"

  def __call__(self, theta, log_mean, batch, z_t, t, key: jax.Array) -> jax.Array:
    """The mean score; `log_mean`, `z_t` and `t` are those of all noises, as a rollout has them.

    `batch` is the data that `z_t` came from.
    """
    p, s = self.parts, self.settings
    c = Kernel(p.process, tuple(Scale(*scale) for scale in s.scales), s.category_bandwidth)
    x, blocks = batch.tokens, p.num_blocks
    z_t, t = z_t[:: s.num_noises], t[:: s.num_noises]
    if s.target == "teacher":
      predict = functools.partial(p.teacher.given(batch).log_mean, theta)
      x = finish_sample(
        predict, p.process, key, z_t, t, s.target_nfe, p.temperature, p.top_p
      ).tokens
    if s.objective != "marginal":
      blank = t >= 1.0 if s.objective == "pooled" else None
      return conditional_score(c, log_mean, x, z_t, blocks, blank)
    log_mean = jax.tree.map(lambda a: a[:: s.num_noises], log_mean)
    if blocks > 1:
      # Blocks as examples of their own: their laws, given the blocks before, are what is matched.
      log_mean = whole(log_mean)
      rows = len(x) * blocks
      log_mean, x, z_t = (a.reshape(rows, -1, *a.shape[2:]) for a in (log_mean, x, z_t))
    return marginal_mmd2(c, log_mean, x, z_t, blocks)


@dataclasses.dataclass(frozen=True)
class KernelScore:
  """The kernel score alone (ours): no auxiliary model, and no teacher but where its samples are."""

  parts: Parts
  score: ScoreSettings = dataclasses.field(default_factory=ScoreSettings)

  noises = ANY_NOISE
  takes_low_rank = True
  batches_per_step = 1

  def init(self, key: jax.Array, teacher: Any) -> updates.State:
    return updates.init(self.parts, key, teacher, keep_teacher=self.score.target == "teacher")

  def step(self, state, batch, key: jax.Array):
    return updates.update_student_by(self.parts, self.loss, state, batch, key)

  def loss(self, eta, theta, batch, key: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    p, score = self.parts, Score(self.parts, self.score)
    steps = Steps(
      p.process,
      p.student_nfe,
      from_prior=p.from_prior,
      num_blocks=p.num_blocks,
      independent_times=score.independent_times,
    )
    corrupt_key, noise_key, score_key = jax.random.split(key, 3)
    start = corrupt(steps, batch.tokens, corrupt_key, batch.prompts)
    z_t, _, t = (jnp.repeat(part, self.score.num_noises, axis=0) for part in start)
    log_p = p.student.given(batch).log_mean(eta, z_t, t, noise_key)
    value = score(theta, log_p, batch, z_t, t, score_key)
    entropies = map_positions(entropy, log_p)
    of_active = mean_where(entropies, p.process.active(z_t))
    return value, {"kernel_score_loss": value, "entropy": of_active}

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    distill = config.distill
    asked = distill.score.target == "teacher"
    if not asked and (distill.temperature, distill.top_p, distill.guidance) != (1, 1, 0):
      yield (
        "distill.temperature, distill.top_p and distill.guidance act on the teacher, which the"
        " kernel score against data does not ask: leave them at 1, 1 and 0, or use"
        " distill.score.target='teacher'"
      )
    yield from score_problems(config, shape)


def score_problems(config: Any, shape: tuple[int, ...], stride: int = 1) -> Iterator[str]:
  """What a kernel score of one in `stride` examples does not go together with, in any method."""
  distill, score = config.distill, config.distill.score
  block = config.network.get("block", 0)
  if score.objective != "marginal" and score.num_noises < 2:
    yield (
      "distill.score.num_noises is 1; the conditional kernel score compares outputs of at least 2"
    )
  if score.objective == "pooled" and block:
    yield (
      f"distill.score.objective is 'pooled' and network.block is {block}; blocks depend on those"
      " before them: use 'conditional'"
    )
  if score.objective == "pooled" and (config.network.classes or config.dataset.name == "chats"):
    yield (
      "distill.score.objective is 'pooled', and the student is given labels or prompts; with these"
      " examples at t = 1 are not of one law: use 'conditional'"
    )
  examples = distill.batch_size // distill.microbatches // stride
  if score.objective == "marginal" and examples < 2:
    yield (
      f"distill.batch_size / distill.microbatches is {examples * stride}"
      + f", of which the score is given 1 in {stride}" * (stride > 1)
      + "; the marginal kernel score compares at least 2 examples"
    )
  if score.category_bandwidth and len(shape) != 3:
    yield (
      f"distill.score.category_bandwidth is {score.category_bandwidth}; the tokens of"
      f" {config.dataset.name} have no order: set it to 0"
    )
  shortest = block or min(shape[:2])
  for scale in score.scales:
    if scale[0] > shortest:
      yield (
        f"distill.score.scales has {scale}; expected 0 <= window <= {shortest} for"
        f" {config.dataset.name}"
      )
