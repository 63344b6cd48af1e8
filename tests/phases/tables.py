"""A table in the place of every network, so that methods are quick to test."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coins_dmmd
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.diffusion import processes
from dmmd_jax.phases import build

K, D, B = 3, 4, 6
KEY = jax.random.key(5)
NOISE_DIM = 2


@dataclasses.dataclass(frozen=True)
class TableConfig:
  num_classes: int = 2
  block: int = 0


class Table(nn.Module):
  """Logits from tables of the token, its neighbour, the label and the context, a slope, noise.

  In training they are half as large: a dropout without chance.
  """

  config: TableConfig
  num_states: int
  noise_channels: int

  def __call__(self, *args, **kwargs):
    return self.features(*args, **kwargs)

  def head(self, logits):
    return logits

  @nn.compact
  def features(self, z, t, noise=None, labels=None, context=None, training=False):
    def parameter(name, *shape):
      return self.param(name, nn.initializers.normal(1.0), shape)

    tokens = parameter("tokens", self.num_states, K)
    classes = parameter("classes", self.config.num_classes + 1, K)
    logits = tokens[z] + 0.5 * tokens[jnp.roll(z, 1, axis=1)][..., ::-1]
    logits += processes.expand(t, logits) * parameter("slope", K)
    if context is not None:
      logits += 0.5 * tokens[jnp.roll(context, 1, axis=1)]
    if labels is not None:
      logits += classes[labels][:, None]
    if self.noise_channels:
      logits += noise @ parameter("noise", self.noise_channels, K)
    return 0.5 * logits if training else logits


@pytest.fixture(autouse=True)
def tables(monkeypatch):
  """Every network that is made is a table."""

  def make_network(config, dataset, num_states, noise_channels=0, **sizes):
    sizes = TableConfig(dataset.num_classes, config.network.block)
    return Table(sizes, num_states, noise_channels)

  monkeypatch.setattr(build, "make_network", make_network)


def make_config(**changes):
  config = coins_dmmd.get_config()
  d = config.distill
  d.update({"student_nfe": 2, "from_prior": False, "noise_dim": NOISE_DIM, "noise_scale": 0.7})
  d.score.update({"scales": ((0, 1, (2.0,)),), "target_nfe": 2})
  for name, value in changes.items():
    *section, name = name.split("__")
    target = config if section and section[0] in config else d
    for inner in section:
      target = target[inner]
    target[name] = value
  return config


def make_dataset():
  rng = np.random.default_rng(0)
  tokens, labels = rng.integers(0, K, (60, D)), rng.integers(0, 2, 60)
  return Dataset(tokens, tokens, K, labels, labels)


def make_params(num_states):
  """Parameters of student, auxiliary and teacher, all different."""
  shapes = {"tokens": (num_states, K), "classes": (3, K), "slope": (K,)}
  normal = np.random.default_rng(1).normal
  draw = lambda shape: jnp.asarray(normal(size=shape), jnp.float32)
  eta, phi, theta = ({name: draw(shape) for name, shape in shapes.items()} for _ in range(3))
  return {**eta, "noise": draw((NOISE_DIM, K))}, phi, theta


DATA = make_dataset()
