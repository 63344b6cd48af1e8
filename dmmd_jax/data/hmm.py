"""Sequences of a hidden Markov model: every quantity of the data is exact, at any length.

A hidden state walks over the positions, and each token is drawn from the state at its position.
Masked or noisy tokens keep that form, so that the exact denoiser is one forward and one backward
pass over the sequence (models with such oracles: arXiv 2602.19619).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.data.pipeline import Dataset

# Of Dirichlet distributions: a few successors and tokens of a state have nearly all of its mass.
_CONCENTRATION = 0.05
# Spread evenly over all successors and tokens, so that likelihoods of samples are finite.
_FLOOR = 0.01


@dataclasses.dataclass(frozen=True, eq=False)
class HiddenMarkov:
  """Probabilities in float64: `transition` `[S, S]`, of rows; `emission` `[S, K]`; `length` D.

  The first state is drawn from the stationary distribution, so that all positions are alike.
  """

  transition: np.ndarray
  emission: np.ndarray
  length: int

  @property
  def stationary(self) -> np.ndarray:
    """The distribution of the state at every position, `[S]`."""
    size = len(self.transition)
    # It is left as it is by a transition, and sums to one.
    equations = np.concatenate([self.transition.T - np.eye(size), np.ones((1, size))])
    return np.linalg.lstsq(equations, np.eye(size + 1)[-1], rcond=None)[0]

  def sample(self, num: int, seed: int) -> np.ndarray:
    """Draws int32 tokens `[num, D]`."""
    rng = np.random.default_rng(seed)
    steps, tokens = self.transition.cumsum(1), self.emission.cumsum(1)
    state = _first_above(self.stationary.cumsum()[None], rng.random(num))
    drawn = np.empty((num, self.length), np.int32)
    for position in range(self.length):
      drawn[:, position] = _first_above(tokens[state], rng.random(num))
      state = _first_above(steps[state], rng.random(num))
    return drawn

  def log_prob(self, x: np.ndarray) -> np.ndarray:
    """`log p(x)` in nats, float64 `[n]`, of tokens `[n, D]`, by the forward algorithm."""
    state, total = np.broadcast_to(self.stationary, (len(x), len(self.transition))), 0.0
    for tokens in x.T:
      joint = state * self.emission[:, tokens].T
      evidence = joint.sum(1, keepdims=True)
      total += np.log(evidence[:, 0])
      state = joint / evidence @ self.transition
    return total

  def pairs(self, distance: int) -> np.ndarray:
    """Probabilities `[K, K]` of the tokens at any two positions that are `distance` apart."""
    states = self.stationary[:, None] * np.linalg.matrix_power(self.transition, distance)
    return self.emission.T @ states @ self.emission

  def log_mean(self, process, z_t: jax.Array, t: jax.Array) -> jax.Array:
    """Exact `log E[x | z_t]`, float32 `[B, D, K]`, for tokens `[B, D]` corrupted by `process`.

    The state at a position is weighed by what is seen before it and after it, then its token by
    what is seen of itself.
    """
    transition, emission = (jnp.asarray(x, jnp.float32) for x in (self.transition, self.emission))
    alpha = process.schedule.alpha(t)[:, None, None]
    beta = process.schedule.beta(t)[:, None, None]
    # q(z_t | x = c) `[B, D, K]`, and q(z_t | state) `[D, B, S]`.
    seen = alpha * jax.nn.one_hot(z_t, process.num_categories)
    seen += beta * process.stationary_at(z_t)[..., None]
    of_state = jnp.einsum("bdc,sc->dbs", seen, emission, precision="highest")

    def walk(start, matrix, reverse):
      """The message that arrives at each position, normalised, from one side."""

      def step(arriving, here):
        weights = arriving * here
        weights /= jnp.maximum(weights.sum(-1, keepdims=True), 1e-30)
        return jnp.matmul(weights, matrix, precision="highest"), arriving

      start = jnp.broadcast_to(start, of_state.shape[1:])
      return jax.lax.scan(step, start, of_state, reverse=reverse)[1]

    before = walk(jnp.asarray(self.stationary, jnp.float32), transition, reverse=False)
    after = walk(jnp.ones(len(transition)), transition.T, reverse=True)
    mean = seen * jnp.einsum("dbs,sc->bdc", before * after, emission, precision="highest")
    return jax.nn.log_softmax(jnp.log(jnp.maximum(mean, 1e-30)))


def _first_above(cumulative: np.ndarray, u: np.ndarray) -> np.ndarray:
  """The first of cumulative probabilities `[n or 1, m]` above `u` `[n]`."""
  return np.minimum((u[:, None] >= cumulative).sum(1), cumulative.shape[1] - 1)


def draw_model(length: int, num_categories: int, num_hidden: int) -> HiddenMarkov:
  """The one of these sizes, from a fixed seed: a state has a few likely successors and tokens."""
  rng = np.random.default_rng(1)
  transition = rng.dirichlet(np.full(num_hidden, _CONCENTRATION), size=num_hidden)
  emission = rng.dirichlet(np.full(num_categories, _CONCENTRATION), size=num_hidden)
  transition, emission = ((1 - _FLOOR) * x + _FLOOR / x.shape[1] for x in (transition, emission))
  return HiddenMarkov(transition, emission, length)


def load(
  length: int,
  num_categories: int,
  num_hidden: int,
  num_train: int = 65536,
  num_held_out: int = 4096,
) -> Dataset:
  """Sequences of `length` tokens of so many kinds, by a walk over `num_hidden` states."""
  joint = draw_model(length, num_categories, num_hidden)
  return Dataset(
    train=joint.sample(num_train, seed=1),
    held_out=joint.sample(num_held_out, seed=2),
    validation=joint.sample(num_held_out, seed=3),
    num_categories=num_categories,
    joint=joint,
  )
