"""Synthetic token sequences whose exact joint distribution, and so the exact teacher, is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.data.pipeline import Dataset


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
  """A mixture of `M` product distributions: `weights` `[M]`, `probs` `[M, D, K]`, float64."""

  weights: np.ndarray
  probs: np.ndarray

  def sample(self, num: int, seed: int) -> np.ndarray:
    """Draws int32 tokens `[num, D]`."""
    rng = np.random.default_rng(seed)
    component = rng.choice(len(self.weights), size=num, p=self.weights)
    cumulative = self.probs.cumsum(-1)[component]
    cumulative[..., -1] = 1.0
    return (rng.random((*cumulative.shape[:2], 1)) >= cumulative).sum(-1).astype(np.int32)

  def log_joint(self, x: np.ndarray) -> np.ndarray:
    """`log p(component, x)` `[n, M]` in float64 for tokens `[n, D]`; -inf where impossible."""
    with np.errstate(divide="ignore"):
      log_probs, log_weights = np.log(self.probs), np.log(self.weights)
    return log_weights + log_probs[:, np.arange(x.shape[1]), x].sum(-1).T

  def log_mean(self, process, z_t: jax.Array, t: jax.Array) -> jax.Array:
    """Exact `log E[x | z_t]`, float32 `[B, D, K]`, for tokens `[B, D]` corrupted by `process`.

    Bayes' rule within each component, position by position, then over the components.
    """
    probs = jnp.asarray(self.probs, jnp.float32)
    alpha = process.schedule.alpha(t)[:, None, None]
    beta = process.schedule.beta(t)[:, None, None]
    # q(z_t | x = c): at least a floor, since visible tokens may be impossible in a component.
    likelihood = alpha * jax.nn.one_hot(z_t, process.num_categories)
    likelihood += beta * process.stationary_at(z_t)[..., None]
    evidence = jnp.einsum("mdc,bdc->bmd", probs, likelihood)
    log_component = jnp.log(jnp.maximum(evidence, 1e-30)).sum(-1) + jnp.log(self.weights)
    component = jax.nn.softmax(log_component)
    given_component = probs * likelihood[:, None] / jnp.maximum(evidence, 1e-30)[..., None]
    mean = jnp.einsum("bm,bmdc->bdc", component, given_component)
    return jax.nn.log_softmax(jnp.log(jnp.maximum(mean, 1e-30)))


def coins() -> Mixture:
  """Two perfectly correlated fair coins: the smallest joint that no product can express."""
  return Mixture(np.array([0.5, 0.5]), np.eye(2)[:, None].repeat(2, 1))


def mixture(length: int, num_categories: int, num_components: int, peak: float) -> Mixture:
  """A fixed mixture: per component and position, one category has probability `peak`."""
  rng = np.random.default_rng(0)
  favourite = rng.integers(num_categories, size=(num_components, length))
  rest = (1.0 - peak) / (num_categories - 1)
  probs = np.where(np.eye(num_categories, dtype=bool)[favourite], peak, rest)
  weights = rng.uniform(1.0, 2.0, num_components)
  return Mixture(weights / weights.sum(), probs)


def load(name: str, num_train: int = 65536, num_held_out: int = 4096) -> Dataset:
  """`coins`, or `mixture`: 12 tokens, 6 categories, 16 components."""
  joint = coins() if name == "coins" else mixture(12, 6, 16, peak=0.95)
  return Dataset(
    train=joint.sample(num_train, seed=1),
    held_out=joint.sample(num_held_out, seed=2),
    validation=joint.sample(num_held_out, seed=3),
    num_categories=joint.probs.shape[-1],
    joint=joint,
  )
