"""A language model to measure text by, which is the autoregressive baseline too."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from etils import epath

from dmmd_jax import optimization, parallel, training
from dmmd_jax.data.pipeline import Batches
from dmmd_jax.diffusion.samplers import Samples, sample_autoregressively
from dmmd_jax.metrics import gradient_moment
from dmmd_jax.networks import gpt2, transformer
from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.phases import build
from dmmd_jax.phases.teacher import initial_state, supervised_step, trained
from dmmd_jax.positions import Deferred, map_positions
from dmmd_jax.records import Source, Sources


@dataclasses.dataclass(frozen=True, eq=False)
class LanguageModel:
  """A model of text and its parameters.

  `token_nll(params, tokens [B, D])` gives nats of each token given those before it, `[B, D]`, or
  `[B, D - 1]` where the first has nothing before it. `sample(params, key, shape, temperature,
  top_p)` draws tokens, where the model can. It knows `num_categories` tokens and texts of up to
  `length`. The devices of a `mesh`, if any, share the batches that they divide.
  """

  token_nll: Callable[[Any, jax.Array], jax.Array]
  params: Any
  num_categories: int
  length: int
  sample: Callable[..., Samples] | None = None
  mesh: jax.sharding.Mesh | None = None

  def loss(self, params: Any, tokens: jax.Array) -> jax.Array:
    """Nats per token, the mean over a batch."""
    return self.token_nll(params, tokens).mean()

  def nll(self, tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Nats per token of each of tokens `[n, D]`, float32 `[n]`."""
    means = []
    for i in range(0, len(tokens), batch_size):
      batch = tokens[i : i + batch_size].astype(np.int32)
      with self._shared(len(batch)):
        means.append(self._text_nll(self.params, batch))
    return np.concatenate(means)

  @functools.cached_property
  def _text_nll(self) -> Callable[[Any, np.ndarray], jax.Array]:
    # Every process has all of them.
    everywhere = self.mesh and parallel.replicated(self.mesh)
    return jax.jit(lambda *args: self.token_nll(*args).mean(-1), out_shardings=everywhere)

  def gradient_moment(
    self, samples: np.ndarray, data: np.ndarray | None, batch_size: int
  ) -> gradient_moment.Estimate:
    """That of tokens `[n, D]` against `[m, D]`, as `metrics.gradient_moment` has it."""
    # One dtype, one program.
    samples, data = (None if x is None else x.astype(np.int32) for x in (samples, data))
    with self._shared(batch_size):
      return gradient_moment.gradient_moment(self.loss, self.params, samples, data, batch_size)

  def _shared(self, batch_size: int) -> contextlib.AbstractContextManager:
    if self.mesh is None or batch_size % parallel.batch_shards(self.mesh):
      return contextlib.nullcontext()
    return parallel.use(self.mesh)


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: Sources
) -> dict[str, Any]:
  """Trains a causal transformer on the data set for `config.reference.num_steps` steps."""
  c = config.reference
  module = make_module(config, dataset)
  optimizer = optimization.make_optimizer(c.optimizer, c.num_steps)

  def loss(params, batch, key):
    return token_nll(module, params, batch.tokens).mean()

  job = training.Job(
    name="reference",
    num_steps=c.num_steps,
    init=lambda key, _: initial_state(init_params(module, key), optimizer),
    step=supervised_step(loss, optimizer, c, in_bits=True),
    batches=Batches(dataset, c.batch_size, config.run.seed + 2, config.run.data_workers),
  )
  return trained(job, workdir, config, mesh, sources)


def make_module(config, dataset) -> transformer.Transformer:
  """A transformer of the config's sizes, with blocks of one token, in float32: it measures."""
  sizes = {"block": 1, "conv": 0, "patch": 1, "dtype": "float32", "dropout": 0.0}
  sizes["name"] = "transformer"
  num_states = dataset.num_categories + 1  # one for the beginning
  return build.make_network(config, dataset, num_states, **sizes)


def init_params(module: transformer.Transformer, key: jax.Array) -> Any:
  """Parameters that carry logical axis names."""
  return module.init(key, jnp.zeros((1, *module.config.shape), jnp.int32), jnp.zeros(1))["params"]


def token_nll(module: transformer.Transformer, params: Any, x: jax.Array) -> jax.Array:
  """Nats of each of tokens `[B, D]` given those before it."""
  begin = jnp.full((len(x), 1), module.config.num_categories, x.dtype)
  shifted = jnp.concatenate([begin, x[:, :-1]], 1)
  features = module.apply({"params": params}, shifted, jnp.zeros(len(x)), method="features")
  return _nll(module, params, features, x)


def sample(
  module: transformer.Transformer,
  params: Any,
  key: jax.Array,
  shape: tuple[int, int],
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> Samples:
  """Draws tokens `[B, D]` one by one with a cache of keys and values."""

  def predict(cache, i, previous):
    z = jnp.where(previous < 0, module.config.num_categories, previous)[:, None]
    t = jnp.zeros(len(z))
    logits, cache = module.apply({"params": params}, z, t, cache=cache, start=i)
    return jax.nn.log_softmax(logits[:, 0]), cache

  cache = module.config.empty_cache(shape[0])
  return sample_autoregressively(predict, cache, key, shape, temperature, top_p)


def load(source: Source, dataset, mesh: jax.sharding.Mesh) -> LanguageModel:
  """The reference model in `source`: one that was trained, or a folder with GPT-2.

  Raises `WeightsError` where the folder has no GPT-2, or one of other tokens.
  """
  if "config" in source.identity:
    return load_trained(source, dataset, mesh)
  model = load_gpt2(str(source.path))
  if model.num_categories < dataset.num_categories or model.length < dataset.shape[0]:
    raise WeightsError(
      f"{source.path} knows {model.num_categories} tokens and texts of {model.length};"
      f" the data set has {dataset.num_categories} and {dataset.shape[0]}"
    )
  params = jax.device_put(model.params, parallel.replicated(mesh))
  return dataclasses.replace(model, params=params, mesh=mesh)


def load_trained(source: Source, dataset, mesh: jax.sharding.Mesh) -> LanguageModel:
  """The model that the phase `reference` left, with the sizes that it has there."""
  module = make_module(source.config, dataset)
  return LanguageModel(
    token_nll=lambda params, x: token_nll(module, params, x),
    params=build.load_ema(source, functools.partial(init_params, module), mesh),
    num_categories=dataset.num_categories,
    length=dataset.shape[0],
    sample=lambda params, *args: sample(module, params, *args),
    mesh=mesh,
  )


def load_gpt2(folder: str) -> LanguageModel:
  """GPT-2 as a reference; its first token has nothing before it and is not counted."""
  module, params = gpt2.load(folder)
  c = module.config
  nll = functools.partial(gpt2_nll, module)
  return LanguageModel(nll, params, c.vocab_size, c.n_positions + 1)


def gpt2_nll(module: gpt2.GPT2, params: Any, x: jax.Array) -> jax.Array:
  """Nats of each of tokens `[B, D]` but the first, given those before it, `[B, D - 1]`."""
  # Where it knows so many positions of all tokens: a multiple of 128 suits the attention of a TPU.
  given = x[:, : module.config.n_positions]
  features = module.apply({"params": params}, given, method="features")
  # The last token, where it is given, is followed by no other.
  nll = _nll(module, params, features, jnp.roll(x, -1, axis=1)[:, : given.shape[1]])
  return nll[:, : x.shape[1] - 1]


def _nll(module, params: Any, features: jax.Array, x: jax.Array) -> jax.Array:
  """Nats of tokens int `[B, D]` by a network that has a `head` for its features `[B, D, ...]`."""
  logits = Deferred(lambda h: module.apply({"params": params}, h, method="head"), (features,))
  return map_positions(optax.softmax_cross_entropy_with_integer_labels, logits, x)
