"""A network with the meaning of what it predicts."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes
from dmmd_jax.networks import noise
from dmmd_jax.networks.blocks import Cache
from dmmd_jax.positions import Deferred


@dataclasses.dataclass(frozen=True, eq=False)
class Denoiser:
  """A network with the meaning of what it predicts, `mean` or `leave_one_out`.

  One of several blocks predicts a block from the clean blocks before it: `given` them all
  (`context`) in training, from a cache in sampling. One that knows classes is `given` labels, of
  which `num_classes` itself stands for none; with `guidance` w it predicts in proportion to
  `p(x | label)^(1 + w) / p(x)^w` (classifier-free guidance, arXiv 2207.12598), in two evaluations.
  One that knows none is guided by what it sees, `p(x | z_t)^(1 + w) / p(x)^w`, where `p(x)` is its
  prediction at masks alone (arXiv 2410.18514 masks the prompt), of one example for all.
  Where the first `prompts` int `[n]` tokens of `clean` examples `[n, D]` are given, it sees them,
  whatever has become of them in `z`, and predicts them for certain: no loss or draw is theirs.
  """

  module: nn.Module
  process: processes.Process
  prediction: str
  shape: tuple[int, ...]
  noise_kind: str = "none"
  noise_dim: int = 0
  noise_scale: float = 1.0
  context: jax.Array | None = None
  labels: jax.Array | None = None
  clean: jax.Array | None = None
  prompts: jax.Array | None = None
  guidance: float = 0.0
  training: bool = False

  @property
  def num_classes(self) -> int:
    return self.module.config.num_classes

  @property
  def num_blocks(self) -> int:
    block = getattr(self.module.config, "block", 0)
    return self.shape[0] // (block or self.shape[0])

  def given(self, batch: Batch) -> "Denoiser":
    """Itself, for corruptions of the `n` examples of a batch, `B/n` in a row of each."""
    return dataclasses.replace(
      self,
      context=batch.tokens if self.num_blocks > 1 else None,
      labels=batch.labels if self.num_classes else None,
      clean=None if batch.prompts is None else batch.tokens,
      prompts=batch.prompts,
    )

  def guided(self, guidance: float) -> "Denoiser":
    return dataclasses.replace(self, guidance=guidance)

  def evaluations(self, steps: float) -> float:
    """NFE: how often the network sees a position while it is sampled in so many `steps`.

    The prediction at masks alone is that of one example for all, and not counted.
    """
    writing = 1 if self.num_blocks > 1 else 0  # of the clean block to the cache
    return steps * (2 if self.guidance and self.num_classes else 1) + writing

  def in_training(self) -> "Denoiser":
    """Itself with dropout."""
    return dataclasses.replace(self, training=True)

  def init(self, key: jax.Array) -> Any:
    """Parameters that carry logical axis names."""
    z = jnp.zeros((1, *self.shape), jnp.int32)
    labels = jnp.zeros(1, jnp.int32) if self.num_classes else None
    return self.module.init(key, z, jnp.zeros(1), self._noise(key, z), labels=labels)["params"]

  def log_probs(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> Deferred:
    """Log-probabilities float32 `[B, ..., K]`, in the network's own meaning.

    A student draws its noise from `key`, or that of each example from one of keys `[B]`; the other
    networks need none but for dropout.
    """
    given = {"context": self.context, "labels": self.labels}
    given = {n: _repeated(x, z) for n, x in given.items() if x is not None}
    if self.prompts is not None:
      clean, lengths = _repeated(self.clean, z), _repeated(self.prompts, z)
      is_given = jnp.arange(z.shape[1]) < lengths[:, None]
      z = jnp.where(is_given, clean, z)
    if self.training:
      given |= {"training": True, "rngs": {"dropout": jax.random.fold_in(key, 1)}}
    predict = functools.partial(self._predict, params, z, t, self._noise(key, z))
    log_probs = predict(**given)
    if self.guidance and self.num_classes:
      given["labels"] = jnp.full(len(z), self.num_classes)
      log_probs = Deferred(self._guide, (log_probs, predict(**given)))
    elif self.guidance:
      log_probs = Deferred(self._guide, (log_probs, self._at_masks_alone(params)))
    return log_probs if self.prompts is None else Deferred(_certain, (log_probs, clean, is_given))

  def log_mean(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> Deferred:
    """`log E[x | z_t]`, whatever the network predicts."""
    return self._to_mean(self.log_probs(params, z, t, key), z, t)

  def block_log_mean(
    self, params: Any, cache: Cache, start: jax.Array, z: jax.Array, t: jax.Array, key
  ) -> Deferred:
    """`log E[x | z_t, clean blocks before]` of the block `z` that begins at token `start`."""
    drawn = self._noise(key, z)
    return self._to_mean(self._predict(params, z, t, drawn, cache=cache, start=start), z, t)

  def remember(self, params: Any, cache: Cache, start: jax.Array, x: jax.Array) -> Cache:
    """The cache with a clean block `x` `[B, block]` written."""
    clean = jnp.zeros(len(x))
    _, cache = self._features(params, x, clean, cache=cache, start=start)
    return cache

  def empty_cache(self, batch_size: int) -> Cache | None:
    """None for a network of one block, which remembers nothing."""
    return self.module.config.empty_cache(batch_size) if self.num_blocks > 1 else None

  def noise(self, key: jax.Array | None, z: jax.Array) -> jax.Array | None:
    """What a student draws from `key` beside `z`, before it is scaled."""
    return noise.sample_noise(key, self.noise_kind, z.shape[0], z.shape[1:], self.noise_dim)

  def _features(self, params: Any, *args: Any, **kwargs: Any) -> Any:
    return self.module.apply({"params": params}, *args, method="features", **kwargs)

  def _predict(self, params: Any, *args: Any, **kwargs: Any) -> Deferred:
    features = self._features(params, *args, **kwargs)
    if "cache" in kwargs:
      features, _ = features
    return self._read(params, features)

  def _at_masks_alone(self, params: Any) -> Deferred:
    """The prediction where no token is visible, `[1, ..., K]`: one example stands for all."""
    nothing = self.process.sample_prior(None, (1, *self.shape))
    return self._read(params, self._features(params, nothing, jnp.ones(1)))

  def _read(self, params: Any, features: jax.Array) -> Deferred:
    def log_probs(features):
      return jax.nn.log_softmax(self.module.apply({"params": params}, features, method="head"))

    return Deferred(log_probs, (features,))

  def _guide(self, log_probs: jax.Array, without: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(log_probs + self.guidance * (log_probs - without))

  def _to_mean(self, log_probs: Deferred, z: jax.Array, t: jax.Array) -> Deferred:
    if self.prediction == "mean":
      return log_probs
    return Deferred(self.process.to_mean, (log_probs, z, t))

  def _noise(self, key: jax.Array | None, z: jax.Array) -> jax.Array | None:
    drawn = self.noise(key, z)
    return None if drawn is None else self.noise_scale * drawn


def _repeated(x: jax.Array, z: jax.Array) -> jax.Array:
  """`[n, ...]` for corruptions `[B, ...]` of its examples, `B/n` in a row of each."""
  return jnp.repeat(x, len(z) // len(x), axis=0)


def _certain(log_probs: jax.Array, clean: jax.Array, is_given: jax.Array) -> jax.Array:
  """Log-probabilities `[B, D, K]`, where `is_given` those of the tokens that are."""
  known = jnp.log(jnp.maximum(jax.nn.one_hot(clean, log_probs.shape[-1]), 1e-30))
  return jnp.where(is_given[..., None], known, log_probs)
