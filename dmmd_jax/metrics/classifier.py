"""A small classifier trained on a data set, whose hidden layer gives the Fréchet features."""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax


class _Net(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
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
  """Trains on tokens int `[N, ...]` (as ordered values) with labels int `[N]`; takes seconds."""
  num_classes = int(labels.max()) + 1
  net = _Net(num_classes)
  optimizer = optax.adamw(optax.cosine_decay_schedule(2e-3, steps), weight_decay=1e-2)

  def scale(tokens):
    return 2.0 * jnp.asarray(tokens, jnp.float32) / (num_categories - 1) - 1.0

  x, y = scale(tokens), jnp.asarray(labels)

  def step(carry, key):
    params, opt_state = carry
    index_key, noise_key = jax.random.split(key)
    index = jax.random.randint(index_key, (128,), 0, len(x))
    # A little noise: the features should not hinge on single grey levels of a thousand images.
    batch = x[index] + 0.1 * jax.random.normal(noise_key, x[index].shape)

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
