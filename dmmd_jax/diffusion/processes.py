"""Corruption processes on categorical tokens: masked, uniform and marginal.

A process keeps each clean token with probability `alpha_t` and otherwise replaces it by a draw
from a stationary distribution `pi`, independently per position. Tokens are int32 `[B, ...]`, times
float32 `[B]` or one per token, log-probabilities float32 `[B, ..., K]`. The reverse posterior is
that of D-MMD (arXiv 2603.20155, Eq. 4).
"""

import dataclasses

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.categorical import draw_of_one, uniforms
from dmmd_jax.diffusion.schedules import Linear, Schedule


def expand(t: jax.Array, like: jax.Array) -> jax.Array:
  """Adds axes to `t`, `[B]` or `[B, D]`, so that it broadcasts against `like` `[B, D, ...]`."""
  return t.reshape(t.shape + (1,) * (like.ndim - t.ndim))


def spread(t: jax.Array, num_blocks: int, length: int) -> jax.Array:
  """Times of blocks `[B * num_blocks]` to times of tokens `[B, length]`; `[B]` for one block."""
  if num_blocks == 1:
    return t
  return jnp.repeat(t.reshape(-1, num_blocks), length // num_blocks, axis=1)


@dataclasses.dataclass(frozen=True)
class Process:
  """What all corruption processes share; a subclass says what `pi` is.

  The last `num_unused` categories never occur, neither in data nor in noise.
  """

  num_categories: int
  schedule: Schedule = Linear()
  num_unused: int = 0

  @property
  def num_used(self) -> int:
    return self.num_categories - self.num_unused

  @property
  def num_states(self) -> int:
    """How many values `z_t` can take."""
    return self.num_categories

  def stationary(self) -> jax.Array:
    """`pi`, float32 `[num_states]`."""
    raise NotImplementedError

  def stationary_at(self, z: jax.Array) -> jax.Array:
    """`pi` at each token, float32, shaped like `z`."""
    return self.stationary()[z]

  def sample_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws `z_1 ~ pi`, int32 of the given shape."""
    raise NotImplementedError

  def active(self, z: jax.Array) -> jax.Array:
    """Which positions of `z` are still undecided (`m_d` of D-MMD), bool, shaped like `z`."""
    return jnp.ones(z.shape, bool)

  def corrupt(self, key: jax.Array, x: jax.Array, t: jax.Array) -> jax.Array:
    """Draws `z_t ~ Cat(alpha_t x + (1 - alpha_t) pi)`, shaped like `x`.

    With one key for several times a token keeps `x` up to some time, and has one draw of `pi` from
    then on.
    """
    keep_key, prior_key = jax.random.split(key)
    kept = jax.random.uniform(keep_key, x.shape) < expand(self.schedule.alpha(t), x)
    return jnp.where(kept, x, self.sample_prior(prior_key, x.shape))

  def log_marginal(self, log_x: jax.Array, t: jax.Array) -> jax.Array:
    """`log(alpha_t x + (1 - alpha_t) pi)` of every state, `[B, ..., num_states]`.

    `log_x` `[B, ..., K]` are log-probabilities of the clean token. The result, and its gradient,
    are finite where `log_x` is, even where its exponential underflows.
    """
    alpha, beta = self._mixture(t, log_x)
    log_x = jnp.pad(log_x, self._extra_states(log_x), constant_values=-jnp.inf)
    from_x, from_pi = jnp.log(alpha) + log_x, beta * self.stationary()
    log_from_pi = jnp.log(jnp.where(from_pi > 0.0, from_pi, 1.0))
    return jnp.where(from_pi > 0.0, jnp.logaddexp(from_x, log_from_pi), from_x)

  def sample_posterior(
    self, key: jax.Array, z_t: jax.Array, x: jax.Array, s: jax.Array, t: jax.Array
  ) -> jax.Array:
    """Draws `z_s ~ q(z_s | z_t, x)` for `s <= t`, shaped like `z_t` (Eq. 4).

    The product in Eq. 4 is a mixture of three parts: stay at `z_t`, jump to `x`, or draw afresh
    from `pi`. Sampling it so needs no array with an axis of categories.
    """
    part_key, prior_key = jax.random.split(key)
    keep, jump = self._transition(z_t, z_t, s, t)
    alpha_s, beta_s = self._mixture(s, z_t)
    to_x = jump * alpha_s
    to_pi = jump * beta_s
    to_z = keep * (alpha_s * (x == z_t) + beta_s * self.stationary_at(z_t))
    total = to_x + to_pi + to_z
    u = jax.random.uniform(part_key, z_t.shape) * total
    z_s = jnp.where(u < to_x + to_pi, self.sample_prior(prior_key, z_t.shape), z_t)
    # The total is 0 only where z_t contradicts x at s = t = 0; the clean token wins there.
    return jnp.where((u < to_x) | (total <= 0.0), x, z_s)

  def posterior_probs(self, z_t: jax.Array, x: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
    """`q(z_s | z_t, x)` of every state, `[B, ..., num_states]` (Eq. 4).

    `x` `[B, ..., K]` are probabilities of the clean token: one-hot for a known token, or a
    `leave_one_out` prediction, for which plugging in is exact.
    """
    keep, jump = self._transition(z_t, x, s, t)
    alpha_s, beta_s = self._mixture(s, x)
    x = jnp.pad(x, self._extra_states(x))
    product = (keep * jax.nn.one_hot(z_t, self.num_states) + jump) * (
      alpha_s * x + beta_s * self.stationary()
    )
    total = product.sum(-1, keepdims=True)
    return jnp.where(total > 0.0, product / jnp.where(total > 0.0, total, 1.0), x)

  def to_mean(self, log_x: jax.Array, z_t: jax.Array, t: jax.Array) -> jax.Array:
    """Turns a `leave_one_out` prediction into `log E[x | z_t]`, both `[B, ..., K]`.

    The two are one Bayes step apart: `mean(c) ~ leave_one_out(c) q(z_t | x = c)`.
    """
    alpha, beta = self._mixture(t, log_x)
    at_z = jax.nn.one_hot(z_t, self.num_categories)
    likelihood = alpha * at_z + beta * self.stationary_at(z_t)[..., None]
    # The likelihood of every other token is 0 at t = 0; a floor keeps its logarithm finite.
    return jax.nn.log_softmax(log_x + jnp.log(jnp.maximum(likelihood, 1e-30)))

  def _extra_states(self, x: jax.Array) -> list[tuple[int, int]]:
    """Padding that gives the states that are no category a place in the last axis of `x`."""
    return [(0, 0)] * (x.ndim - 1) + [(0, self.num_states - self.num_categories)]

  def _mixture(self, t: jax.Array, like: jax.Array) -> tuple[jax.Array, jax.Array]:
    return expand(self.schedule.alpha(t), like), expand(self.schedule.beta(t), like)

  def _transition(
    self, z_t: jax.Array, like: jax.Array, s: jax.Array, t: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """`q(z_t | z_s) = keep 1[z_s = z_t] + jump`: the two numbers, broadcastable to `like`."""
    alpha_s, alpha_t = self.schedule.alpha(s), self.schedule.alpha(t)
    # Of the two equal differences, take the one that does not cancel.
    moved = jnp.where(t < 0.5, self.schedule.beta(t) - self.schedule.beta(s), alpha_s - alpha_t)
    # alpha_s = 0 leaves only s = t = 1, where nothing moves.
    safe = jnp.where(alpha_s > 0.0, alpha_s, 1.0)
    keep = jnp.where(alpha_s > 0.0, alpha_t / safe, 1.0)
    return expand(keep, like), expand(moved / safe, like) * expand(self.stationary_at(z_t), like)


@dataclasses.dataclass(frozen=True)
class Masked(Process):
  """Absorbing diffusion: `pi` is a mask symbol, the state with index `K`."""

  @property
  def num_states(self) -> int:
    return self.num_categories + 1

  def stationary(self) -> jax.Array:
    return jax.nn.one_hot(self.num_categories, self.num_states)

  def stationary_at(self, z: jax.Array) -> jax.Array:
    return self.active(z).astype(jnp.float32)

  def sample_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    del key  # the prior is one point
    return jnp.full(shape, self.num_categories, jnp.int32)

  def active(self, z: jax.Array) -> jax.Array:
    return z == self.num_categories

  def to_mean(self, log_x: jax.Array, z_t: jax.Array, t: jax.Array) -> jax.Array:
    """The prediction at masked positions; a visible token is known, whatever was predicted."""
    del t
    visible = jnp.log(jnp.maximum(jax.nn.one_hot(z_t, self.num_categories), 1e-30))
    return jnp.where(self.active(z_t)[..., None], log_x, visible)

  def stay_probability(self, s: jax.Array, t: jax.Array) -> jax.Array:
    """Probability `[B]` that a position masked at `t` is still masked at `s`."""
    beta_s, beta_t = self.schedule.beta(s), self.schedule.beta(t)
    return jnp.where(beta_t > 0.0, beta_s / jnp.where(beta_t > 0.0, beta_t, 1.0), 0.0)

  def sample_posterior(
    self, key: jax.Array, z_t: jax.Array, x: jax.Array, s: jax.Array, t: jax.Array
  ) -> jax.Array:
    revealed = jax.random.uniform(key, z_t.shape) >= expand(self.stay_probability(s, t), z_t)
    return jnp.where(self.active(z_t) & revealed, x, z_t)


@dataclasses.dataclass(frozen=True)
class Uniform(Process):
  """Every category is equally likely at `t = 1`."""

  def stationary(self) -> jax.Array:
    return jnp.pad(jnp.full((self.num_used,), 1.0 / self.num_used), (0, self.num_unused))

  def stationary_at(self, z: jax.Array) -> jax.Array:
    return jnp.full(z.shape, 1.0 / self.num_used)

  def sample_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.randint(key, shape, 0, self.num_used)


@dataclasses.dataclass(frozen=True)
class Marginal(Process):
  """`pi` is any fixed distribution, strictly positive on what occurs (USD3, arXiv 2402.03701).

  Raises `ValueError` unless `probs` are `num_used` positive numbers; they are normalised.
  """

  probs: tuple[float, ...] = ()

  def __post_init__(self):
    if len(self.probs) != self.num_used or min(self.probs) <= 0.0:
      raise ValueError(
        f"the marginal process needs {self.num_used} positive probabilities, found"
        f" {len(self.probs)} of which the smallest is {min(self.probs, default=None)};"
        " smooth the histogram"
      )

  def stationary(self) -> jax.Array:
    probs = jnp.asarray(self.probs, float)
    return jnp.pad(probs / probs.sum(), (0, self.num_unused))

  def sample_prior(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return draw_of_one(self.stationary()[: self.num_used], uniforms(key, shape))
