"""One step of a student, from corrupted data to a partly denoised sample (D-MMD, Algorithm 1)."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.categorical import draw, uniforms
from dmmd_jax.diffusion.processes import Masked, Process, spread
from dmmd_jax.positions import Deferred, map_positions


@dataclasses.dataclass(frozen=True)
class Steps:
  """The steps that a student is made for; the defaults are those of D-MMD.

  `prediction` is what all networks' outputs mean, `mean` or `leave_one_out`.
  """

  process: Process
  # k, the number of sampling steps that the student is distilled for: t - s < 1/k.
  steps: int = 8
  # z_s ~ q(z_s | z_t, x) ("posterior"), or q(z_s | x) ("forward": IDLM, arXiv 2602.19066).
  renoise: str = "posterior"
  # True: t = 1 always, the one-step setting of DiMO (arXiv 2503.15457).
  from_prior: bool = False
  # True: t is uniform, whatever s is (IDLM); with forward renoising z_s may be the noisier one.
  fresh_times: bool = False
  prediction: str = "mean"
  # Blocks of a sequence, each at a time of its own (block-autoregressive diffusion).
  num_blocks: int = 1
  # Times of a batch that are independent, as all pairs of a batch need them, in place of times that
  # cover [0, 1] evenly, which are better for a mean over single examples.
  independent_times: bool = False


@dataclasses.dataclass(frozen=True)
class Noises:
  """With how many noises a student sees an example: the first of every `stride`, others with one.

  What a student sees and says, `[B', ...]` for `B` examples, has those of one in a row: on one
  device where each device has a multiple of `stride` examples. Elsewhere they are moved about.
  """

  number: int = 1
  stride: int = 1

  def repeat(self, tree: Any) -> Any:
    """`[B, ...]` as a student sees it, `[B', ...]`."""

    def rows(x):
      groups = x.reshape(-1, self.stride, *x.shape[1:])
      first = jnp.repeat(groups[:, :1], self.number, axis=1)
      return _joined(first, groups[:, 1:])

    return jax.tree.map(rows, tree)

  def first(self, tree: Any) -> Any:
    """Of `[B', ...]` the first noise of every example, `[B, ...]`."""

    def rows(x):
      groups = self._groups(x)
      return _joined(groups[:, :1], groups[:, self.number :])

    return jax.tree.map(rows, tree)

  def several(self, tree: Any) -> Any:
    """Of `[B', ...]` the examples with several noises, `[B / stride * number, ...]`."""
    return jax.tree.map(lambda x: _joined(self._groups(x)[:, : self.number]), tree)

  def _groups(self, x: jax.Array) -> jax.Array:
    return x.reshape(-1, self.number + self.stride - 1, *x.shape[1:])


def _joined(*groups: jax.Array) -> jax.Array:
  """Groups `[G, rows, ...]` as `[G * all rows, ...]`."""
  x = jnp.concatenate(groups, axis=1)
  return x.reshape(-1, *x.shape[2:])


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


def with_prompts(z: jax.Array, x: jax.Array, prompts: jax.Array | None) -> jax.Array:
  """`z` int `[B, D]` with the first tokens of `x` put back, as many as `prompts` int `[n]` says.

  A network sees prompts as they are, whatever `z` is (`Network.given`). Put back, they do not count
  as masked either: means over masked positions are those of answers. `B/n` rows in a row are of one
  prompt.
  """
  if prompts is None:
    return z
  lengths = jnp.repeat(prompts, len(z) // len(prompts))[:, None]
  return jnp.where(jnp.arange(z.shape[1]) < lengths, jnp.repeat(x, len(z) // len(x), 0), z)


def corrupt(
  c: Steps, x_data: jax.Array, key: jax.Array, prompts: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Draws `z_t ~ q(z_t | x_data)`, `s` and `t`, within `1/steps` above it or as `c` says."""
  time_key, step_key, corrupt_key = jax.random.split(key, 3)
  draw = losses.independent_times if c.independent_times else losses.sample_times
  s = draw(time_key, x_data.shape[0] * c.num_blocks)
  u = jax.random.uniform(step_key, s.shape)
  t = u if c.fresh_times else jnp.minimum(1.0, s + u / c.steps)
  if c.from_prior:
    t = jnp.ones_like(s)
  s, t = (spread(times, c.num_blocks, x_data.shape[1]) for times in (s, t))
  z_t = c.process.corrupt(corrupt_key, x_data, t)
  return with_prompts(z_t, x_data, prompts), s, t


def laws(
  c: Steps, log_x_hat: jax.Array | Deferred, z_t: jax.Array, t: jax.Array
) -> tuple[jax.Array | Deferred, jax.Array | Deferred]:
  """`log_p` and `log_mean` of a rollout, from the student's prediction `[B, ..., K]` at `z_t`.

  `log_mean` is the law that `x` is drawn from. `log_p` is the soft target of the losses at `z_s`.
  The bound weighs it with `q(z_s | x)` itself, so that it wants what is known of `x` but for that:
  after a posterior step the `leave_one_out` prediction at `z_t`, which the step combines with
  `z_t`; after forward renoising, where `z_s` depends on `x` alone, the law of `x`.
  """
  log_mean = log_x_hat
  # A network may say anything of visible tokens; only renoised from scratch do they take part.
  visible = c.renoise == "forward" and isinstance(c.process, Masked)
  if visible or c.prediction == "leave_one_out":
    log_mean = Deferred(c.process.to_mean, (log_x_hat, z_t, t))
  return (log_mean if c.renoise == "forward" else log_x_hat), log_mean


def rollout(
  c: Steps,
  student: Callable,
  eta: object,
  x_data: jax.Array,
  key: jax.Array,
  noises: Noises = Noises(),
  prompts: jax.Array | None = None,
) -> Rollout:
  """Corrupts data int `[B, ...]`, lets the student predict, and steps to `z_s` (Algorithm 1).

  The student's `x` has the prompts of the data, whose lengths int `[B]` are `prompts`. With more
  noises a `z_t` is seen by so many students that differ in their noise only.
  """
  process = c.process
  corrupt_key, noise_key, x_key, z_key = jax.random.split(key, 4)
  start = corrupt(c, x_data, corrupt_key, prompts)
  z_t, s, t = noises.repeat(start)
  log_p, log_mean = laws(c, student(eta, z_t, t, noise_key), z_t, t)
  x = map_positions(draw, log_mean, uniforms(x_key, z_t.shape))
  if c.renoise == "forward":
    lengths = None if prompts is None else noises.repeat(prompts)
    z_s = with_prompts(process.corrupt(z_key, x, s), x, lengths)
  else:
    z_s = process.sample_posterior(z_key, z_t, x, s, t)
  return Rollout(z_t, t, log_p, log_mean, x, z_s, s)
