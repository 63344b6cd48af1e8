"""A small classifier trained on a data set, whose hidden layer gives the Fréchet features."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

# Features of a kind of token.
_EMBEDDED = 16


class _Net(nn.Module):
  num_classes: int
  num_kinds: int  # of tokens without an order; 0 for values

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    if self.num_kinds:
      x = nn.Embed(self.num_kinds, _EMBEDDED)(x)
    h = nn.gelu(nn.Dense(128)(x.reshape(x.shape[0], -1)))
    features = nn.gelu(nn.Dense(64)(h))
    return features, nn.Dense(self.num_classes)(features)


class Classifier(NamedTuple):
  """`predict(tokens [n, ...]) -> (features [n, 64], logits [n, classes])`."""

  predict: Callable[[np.ndarray], tuple[jax.Array, jax.Array]]
  num_classes: int


def train_classifier(
  tokens: np.ndarray, labels: np.ndarray, num_categories: int, steps: int = 2000, seed: int = 0
) -> Classifier:
  """Trains on tokens int `[N, ...]` with labels int `[N]`; takes seconds.

  Tokens of images are values in order, those of sequences `[N, D]` kinds without one.
  """
  num_classes, is_ordered = int(labels.max()) + 1, tokens.ndim > 2
  net = _Net(num_classes, 0 if is_ordered else num_categories)
  optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-2)

  def scale(tokens):
    if not is_ordered:
      return jnp.asarray(tokens, jnp.int32)
    return 2.0 * jnp.asarray(tokens, jnp.float32) / (num_categories - 1) - 1.0

  x, y = scale(tokens), jnp.asarray(labels)

  def step(carry, key):
    params, opt_state = carry
    index_key, noise_key = jax.random.split(key)
    index = jax.random.randint(index_key, (128,), 0, len(x))
    batch = x[index]
    if is_ordered:
      # A little noise: the features should not hinge on single grey levels of a thousand images.
      batch = batch + 0.1 * jax.random.normal(noise_key, batch.shape)

    def loss(params):
      logits = net.apply(params, batch)[1]
      return optax.softmax_cross_entropy_with_integer_labels(logits, y[index]).mean()

    updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), None

  @jax.jit
  def train(key):
    init_key, run_key = jax.random.split(key)
    params = net.init(init_key, x[:1])
    keys = jax.random.split(run_key, steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]

  params = train(jax.random.key(seed))
  return Classifier(jax.jit(lambda tokens: net.apply(params, scale(tokens))), num_classes)
