"""The programs of a config, for devices that need not be here: steps, samplers, Gradient Moment.

They are made of shapes alone: no data, no weights and no tokenizer are read.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax import optimization, parallel
from dmmd_jax.data.images import NUM_CATEGORIES
from dmmd_jax.data.pipeline import Batch, Dataset
from dmmd_jax.metrics.gradient_moment import pair_product
from dmmd_jax.networks import gpt2
from dmmd_jax.phases import build, distill, reference, teacher

# Tokens of GPT-2's byte pairs, whose tokenizer is not needed to compile for them.
_BYTE_PAIRS = 50257
# Classes of images that have any.
_CLASSES = 10

KEY = jax.eval_shape(jax.random.key, 0)


class Program(NamedTuple):
  """`function(*arguments)` with abstract arguments that are sharded over a mesh.

  `parts` are those arguments whose memory is told apart. `share(devices)` gives a function and
  arguments of a device's share of the work, whose FLOPs are counted. With `donates` the first
  argument's memory is used for the result. `vocabulary` are the sizes of an axis of tokens.
  """

  function: Callable
  arguments: tuple
  parts: dict[str, Any]
  share: Callable[[int], tuple]
  donates: bool
  out_shardings: Any
  vocabulary: frozenset[int]


def dataset_of(config) -> Dataset:
  """Shape, tokens and classes of a config's data, without data."""
  c = config.dataset
  if "shape" in c:
    nothing = np.zeros((0, *c.shape), np.uint8)
    labels = np.full(1, _CLASSES - 1) if config.network.classes else None
    return Dataset(nothing, nothing, NUM_CATEGORIES, train_labels=labels, held_out_labels=labels)
  if c.get("alphabet") in ("gpt2", "file"):
    nothing = np.zeros((0, c.length), np.int32)
    num = _BYTE_PAIRS if c.alphabet == "gpt2" else config.network.vocab_size
    return Dataset(nothing, nothing, num)
  return build.outline(config) if "alphabet" in c else build.make_dataset(config)


def names(config) -> list[str]:
  """The programs that a config runs."""
  found = ["teacher", "distill", "sampler of the teacher", "sampler of the student"]
  return [*found, "Gradient Moment"] if "alphabet" in config.dataset else found


def make(name: str, config, mesh: jax.sharding.Mesh) -> Program:
  """The program of that name, one of `names(config)`."""
  if name in ("teacher", "distill"):
    return _step(name, config, mesh)
  if name == "Gradient Moment":
    return _gradient_moment(config, mesh)
  return _sampler(name.rpartition(" ")[2], config, mesh)


def compile(program: Program, mesh: jax.sharding.Mesh) -> jax.stages.Compiled:
  function = jax.jit(
    program.function,
    donate_argnums=(0,) if program.donates else (),
    out_shardings=program.out_shardings,
  )
  with parallel.use(mesh):
    return function.lower(*program.arguments).compile()


def _step(name: str, config, mesh: jax.sharding.Mesh) -> Program:
  """A training step, as the one loop runs it."""
  c, dataset = config[name], dataset_of(config)
  denoiser = build.make_denoiser(config, dataset)
  if name == "teacher":
    optimizer = optimization.make_optimizer(c.optimizer, c.num_steps)
    step, size = teacher.make_step(config, denoiser, optimizer), c.batch_size
    init = lambda key: teacher.initial_state(denoiser.init(key), optimizer)
  else:
    method = distill.make_method(config, dataset)
    step, size = method.step, c.batch_size * method.batches_per_step
    init = lambda key: method.init(key, nn.unbox(denoiser.init(key)))
  state = sharded(init, mesh)
  kept = jax.tree.map(lambda x: x.sharding, state)

  def share(devices):
    return step, (unsharded(state), _batch(config, dataset, size // devices), KEY)

  return Program(
    step,
    (state, _batch(config, dataset, size, parallel.batch_sharding(mesh)), KEY),
    _parts_of_state(state),
    share,
    donates=True,
    out_shardings=(kept, parallel.replicated(mesh)),
    vocabulary=_vocabulary(dataset),
  )


def _parts_of_state(state) -> dict[str, Any]:
  models = [state.model] if hasattr(state, "model") else [state.student, state.auxiliary]
  models = [model for model in models if model is not None]
  return {
    "parameters": [model.params for model in models],
    "moments": [model.opt_state for model in models],
    "average": state.ema,
    "frozen teacher": getattr(state, "teacher", ()),
  }


def _sampler(name: str, config, mesh: jax.sharding.Mesh) -> Program:
  """One batch of samples in two evaluations: the size does not depend on NFE."""
  c, dataset = config.evaluate, dataset_of(config)
  student = name == "student"
  denoiser = build.make_denoiser(config, dataset, student=student)
  if student:
    sample = build.make_sampler(denoiser, mesh)
  else:
    guided = denoiser.guided(c.teacher_guidance)
    sample = build.make_sampler(
      guided, mesh, temperature=c.teacher_temperature, top_p=c.teacher_top_p
    )
  share_of_batch = -(-c.sample_batch_size // mesh.size)

  def draw(num):
    return lambda params, key: sample(params, key, (num, *dataset.shape), 2).tokens

  params = sharded(denoiser.init, mesh)
  return Program(
    draw(share_of_batch * mesh.size),
    (params, KEY),
    {"parameters": params},
    lambda devices: (draw(share_of_batch), (unsharded(params), KEY)),
    donates=False,
    out_shardings=parallel.replicated(mesh),
    vocabulary=_vocabulary(dataset),
  )


def _gradient_moment(config, mesh: jax.sharding.Mesh) -> Program:
  """A pair of minibatches of samples and of data, under GPT-2 or the reference model."""
  dataset = dataset_of(config)
  half = config.evaluate.sample_batch_size // 2
  if dataset.num_categories == _BYTE_PAIRS:
    module = gpt2.GPT2(gpt2.GPT2Config())
    init = lambda key: module.init(key, jnp.zeros((1, 1), jnp.int32))["params"]
    nll = lambda params, x: reference.gpt2_nll(module, params, x)
  else:
    module = reference.make_module(config, dataset)
    init = lambda key: reference.init_params(module, key)
    nll = lambda params, x: reference.token_nll(module, params, x)
  loss = lambda params, x: nll(params, x).mean()
  params = sharded(init, mesh)

  def texts(num, sharding=None):
    return jax.ShapeDtypeStruct((2, num, *dataset.shape), jnp.int32, sharding=sharding)

  def product(params, samples, data):
    return pair_product(loss, params, samples, data)

  return Program(
    product,
    (params, *[texts(half, parallel.replicated(mesh))] * 2),
    {"parameters": params},
    lambda devices: (product, (unsharded(params), *[texts(half // devices)] * 2)),
    donates=False,
    out_shardings=parallel.replicated(mesh),
    vocabulary=_vocabulary(dataset),
  )


def _vocabulary(dataset: Dataset) -> frozenset[int]:
  """With and without a mask, and up to the next multiple of 128."""
  states = dataset.num_categories + 1
  return frozenset((states - 1, states, -(-states // 128) * 128))


def _batch(config, dataset: Dataset, size: int, sharding=None) -> Batch:
  tokens = jax.ShapeDtypeStruct((size, *dataset.shape), jnp.int32, sharding=sharding)
  of_example = jax.ShapeDtypeStruct((size,), jnp.int32, sharding=sharding)
  labels = of_example if config.network.classes else None
  return Batch(tokens, labels, of_example if config.dataset.name == "chats" else None)


def sharded(init: Callable, mesh: jax.sharding.Mesh):
  """What `init(key)` makes, without making it, sharded as the trainer does."""
  boxed = jax.eval_shape(init, KEY)
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    nn.unbox(boxed),
    parallel.state_shardings(mesh, boxed),
  )


def unsharded(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def device_bytes(tree) -> int:
  """What one device holds of abstract arrays that have shardings."""
  sizes = ((x.sharding.shard_shape(x.shape), x.dtype) for x in jax.tree.leaves(tree))
  return sum(math.prod(shape) * dtype.itemsize for shape, dtype in sizes)
