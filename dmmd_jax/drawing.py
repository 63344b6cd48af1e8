"""Draws examples from a model, each from a key of its own, so that no batch size changes them."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax import parallel
from dmmd_jax.data.images import ImageError
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.diffusion.samplers import Prompt, Samples, Sampling, ancestral_sample
from dmmd_jax.phases import build
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.phases.models import student_draw
from dmmd_jax.records import Source

# draw(params, keys [n], labels [n]) -> tokens [n, *shape]
Draw = Callable[[Any, jax.Array, np.ndarray], jax.Array]

# Log-probabilities of a batch, of which a few copies are in memory at once: 64 MiB of float32.
_MOST_LOG_PROBS = 2**24
_MOST_EXAMPLES = 256
# The axis of the examples of a batch.
_EXAMPLES = "examples"


class Model(NamedTuple):
  """A trained network with its parameters, sharded over a mesh, and what its data are like.

  `sampler` draws from it, in `num_steps(nfe)` steps when it is asked for `nfe`.
  """

  denoiser: Denoiser
  params: Any
  dataset: Dataset
  mesh: jax.sharding.Mesh
  sampler: Callable[..., Samples] = ancestral_sample
  num_steps: Callable[[int], int] = lambda nfe: nfe


def load(
  source: Source, is_student: bool, guidance: float, sampling: Sampling = ancestral_sample
) -> Model:
  """The averaged parameters of a recorded model, and its network, to be sampled by `sampling`.

  A student whose method has a way of its own is sampled in that way. Data are read only where the
  network depends on them. Raises `ValueError` where they cannot be, or the model is damaged.
  """
  config = source.config
  try:
    dataset = build.make_dataset(config) if _needs_data(config) else build.outline(config)
  except ImageError as error:
    raise ValueError(str(error)) from error
  denoiser, mesh = build.make_denoiser(config, dataset), parallel.make_mesh()
  if is_student:
    student = build.make_denoiser(config, dataset, student=True)
    denoiser, params = student, build.load_student(source, student, denoiser, mesh)
  else:
    params = build.load_ema(source, denoiser.init, mesh)
  draw = student_draw(config, dataset, sampling) if is_student else (sampling,)
  return Model(denoiser.guided(guidance), params, dataset, mesh, *draw)


def _needs_data(config) -> bool:
  is_outlined = "alphabet" in config.dataset or "shape" in config.dataset
  return config.process.name == "marginal" or config.network.classes or not is_outlined


def draw_batches(
  model: Model, draw: Draw, seed: int, labels: np.ndarray, batch: int | None = None
) -> Iterator[np.ndarray]:
  """Tokens `[batch, *shape]` or fewer at a time, an example of each of the `labels` int `[n]`.

  Example `i` depends on `seed`, `i` and its label alone, but for rounding. A batch that the devices
  of the mesh share evenly is split over them; by default it takes moderate memory.
  """
  num, devices = len(labels), model.mesh.size
  batch = min(batch or batch_size(model.denoiser), num)
  batch -= batch % devices if batch > devices else 0
  is_even = batch % devices == 0
  sharding = (parallel.batch_sharding if is_even else parallel.replicated)(model.mesh)
  for start in range(0, num, batch):
    some = np.resize(labels[start : start + batch], batch)  # one shape, one program
    given = jax.device_put((example_keys(seed, start, batch), some), sharding)
    yield np.asarray(draw(model.params, *given))[: num - start]


def batch_size(denoiser: Denoiser) -> int:
  """As many examples as may be drawn at once in moderate memory, up to a few hundred."""
  size = math.prod(denoiser.shape) * denoiser.process.num_categories
  return min(max(_MOST_LOG_PROBS // size, 1), _MOST_EXAMPLES)


def example_keys(seed: int, start: int, num: int) -> jax.Array:
  """Keys `[num]` of the examples from number `start` on."""
  return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), start + np.arange(num))


def make_draw(
  denoiser: Denoiser,
  nfe: int,
  temperature: float,
  top_p: float,
  sampler: Callable[..., Samples] = ancestral_sample,
) -> Draw:
  """Draws examples in `nfe` steps, those of a network that knows classes of the labels given."""
  sample = build.make_sampler(denoiser, None, None, temperature, top_p, _beside(sampler))

  def one(params, key, label):
    return sample(params, key, (1, *denoiser.shape), nfe, label[None]).tokens[0]

  return jax.jit(jax.vmap(one, (None, 0, 0), axis_name=_EXAMPLES))


def _beside(sampler: Callable[..., Samples]) -> Callable[..., Samples]:
  """That sampler within a `vmap` over examples of a batch."""
  if isinstance(sampler, Sampling):
    return dataclasses.replace(sampler, beside=_EXAMPLES)
  return sampler


def make_stream(
  denoiser: Denoiser,
  prompt: np.ndarray,
  nfe: int,
  temperature: float,
  top_p: float,
  sampler: Callable[..., Samples] = ancestral_sample,
) -> Callable[[Any, jax.Array], Iterator[np.ndarray]]:
  """`stream(params, keys)` yields tokens `[n, D / num_blocks]` of `n` texts, block after block.

  The first ones are those of `prompt` `[m]`.
  """
  size = denoiser.shape[0] // denoiser.num_blocks
  begin = jnp.zeros(denoiser.shape, jnp.int32).at[: len(prompt)].set(prompt.astype(np.int32))
  is_given = jnp.arange(len(begin)) < len(prompt)

  def draw(params, cache, start, key):
    given, known = (jax.lax.dynamic_slice_in_dim(a, start, size)[None] for a in (begin, is_given))

    def predict(z, t, key):
      if denoiser.num_blocks == 1:
        return denoiser.log_mean(params, z, t, key)
      return denoiser.block_log_mean(params, cache, start, z, t, key)

    key = jax.random.fold_in(key, start)
    x = _beside(sampler)(
      predict, denoiser.process, key, (1, size), nfe, temperature, top_p,
      prompt=Prompt(given, known),
    ).tokens  # fmt: skip
    return x[0], denoiser.remember(params, cache, start, x) if denoiser.num_blocks > 1 else cache

  draw = jax.jit(jax.vmap(draw, (None, 0, None, 0), axis_name=_EXAMPLES))

  def stream(params, keys):
    empty = denoiser.empty_cache(1)
    cache = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(keys), *x.shape)), empty)
    for start in range(0, len(begin), size):
      block, cache = draw(params, cache, start, keys)
      yield np.asarray(block)

  return stream
