"""Makes the parts of an experiment from its config."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax import checkpoints, parallel
from dmmd_jax.config_data import check_data
from dmmd_jax.data import alphabets, chats, digits, hmm, images, text, tfds_text, toy
from dmmd_jax.data.pipeline import Batch, Dataset, random_rows
from dmmd_jax.diffusion import processes, registry, samplers, schedules
from dmmd_jax.diffusion.fast_memory import LANES, LARGE
from dmmd_jax.diffusion.samplers import Sampling, grids
from dmmd_jax.digest import digest
from dmmd_jax.distillation import low_rank
from dmmd_jax.networks import dit, llama, noise, transformer, uvit
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.records import Source

# Examples whose tokens are counted for the marginal process.
_COUNTED = 1_000_000


def make_dataset(config) -> Dataset:
  """Raises `TextError` or `ImageError` for data, or a tokenizer, that cannot be had.

  Raises `ConfigError` for data that are not what the config says.
  """
  dataset = _load_dataset(config)
  check_data(config, dataset)
  return dataset


def _load_dataset(config) -> Dataset:
  c = config.dataset
  if c.name == "digits":
    return digits.load()
  if c.name in ("coins", "mixture"):
    return toy.load(c.name)
  if c.name == "hmm":
    return hmm.load(c.length, c.num_categories, c.num_hidden)
  return make_images(config) if "shape" in c else make_texts(config)


def make_images(config) -> Dataset:
  """Raises `ImageError` for images that cannot be had, or are not what the config says."""
  c = config.dataset
  if c.name == "stripes":
    dataset = images.stripes(c.shape)
  elif c.name in ("npz", "folder"):
    dataset = {"npz": images.load_npz, "folder": images.load_folder}[c.name](c.path)
  else:
    dataset = images.load_tfds(c.name, c.path)
  if dataset.shape != c.shape:
    raise images.ImageError(
      f"the images of {c.name} are {dataset.shape}; dataset.shape is {c.shape}: set it so,"
      " or to () to have it read from the files"
    )
  return dataclasses.replace(dataset, flip=c.flip)


def make_texts(config) -> Dataset:
  """Raises `TextError` for text, or a tokenizer, that cannot be had."""
  c = config.dataset
  tokenizer = make_tokenizer(config)
  how = tokenizer, c.length, c.get("wrap", False)
  if c.name == "english":
    dataset = text.load_english(*how)
  elif c.name == "textfile":
    dataset = text.load_files(c.path, *how)
  elif c.name == "chats":
    dataset = chats.load(c.path, tokenizer, c.length, c.chat)
  else:
    dataset = tfds_text.load(c.name, c.path, *how)
  shortest = min(len(dataset.validation), len(dataset.held_out))
  if "evaluate" in config.get("phases", ()) and shortest < config.evaluate.sample_batch_size:
    raise alphabets.TextError(
      f"{c.name} has {shortest} sequences in its validation or test split; expected at least"
      f" evaluate.sample_batch_size ({config.evaluate.sample_batch_size}): lower it, or give more"
      " text"
    )
  return dataset


def make_tokenizer(config) -> alphabets.Alphabet | alphabets.BytePairs:
  """Raises `TextError` for a tokenizer that cannot be had."""
  c = config.dataset
  return alphabets.make_tokenizer(c.alphabet, c.unknown, c.tokenizer)


def outline(config) -> Dataset:
  """Shape and tokens of texts or images, without data: enough for a network without classes."""
  if "shape" in config.dataset:
    nothing = np.zeros((0, *config.dataset.shape), np.uint8)
    return Dataset(nothing, nothing, images.NUM_CATEGORIES)
  tokenizer = make_tokenizer(config)
  nothing = np.zeros((0, config.dataset.length), np.int32)
  return Dataset(nothing, nothing, tokenizer.num_categories, tokenizer=tokenizer)


def make_process(config, dataset: Dataset) -> processes.Process:
  """The process of a config; a large vocabulary has categories that never occur at its end.

  They make their number a multiple of 128, which suits TPUs, and which axes of a mesh divide. A
  uniform process of somebody else's network has none: it goes to all there are, Duo's [PAD] too.
  """
  schedule = {
    "linear": schedules.Linear(),
    "cosine": schedules.Cosine(),
    "polynomial": schedules.Polynomial(config.process.schedule_power),
  }[config.process.schedule]
  num, name = config.network.get("vocab_size", dataset.num_categories), config.process.name
  if name == "marginal":
    num = dataset.num_categories
    # Texts begin at every token.
    rows = random_rows(dataset.train[:: dataset.shape[0] if dataset.tokenizer else 1], _COUNTED)
    counts = np.bincount(rows.reshape(-1), minlength=num) + 1.0
    make = functools.partial(processes.Marginal, probs=tuple((counts / counts.sum()).tolist()))
  else:
    make = {"masked": processes.Masked, "uniform": processes.Uniform}[name]
  is_padded = num >= LARGE and (name == "masked" or "vocab_size" not in config.network)
  num_unused = -num % LANES if is_padded else 0
  return make(num + num_unused, schedule, num_unused)


def make_network(
  config, dataset: Dataset, num_states: int, num_unused: int = 0, **sizes
) -> nn.Module:
  """The network of a config, but for some `sizes`, with the shapes of a data set."""
  sizes = config.network.to_dict() | sizes
  network, network_config = {
    "transformer": (transformer.Transformer, transformer.TransformerConfig),
    "uvit": (uvit.UViT, uvit.UViTConfig),
    "dit": (dit.DiT, dit.DiTConfig),
    "llama": (llama.Llama, llama.LlamaConfig),
  }[sizes.pop("name")]
  num_classes = dataset.num_classes if sizes.pop("classes") else 0
  # A reference model may be another network than the config's, and has no use for all of its sizes.
  known = {field.name for field in dataclasses.fields(network_config)}
  return network(
    network_config(
      shape=dataset.shape,
      num_states=num_states,
      num_categories=dataset.num_categories + num_unused,
      num_unused=num_unused,
      num_classes=num_classes,
      **{n: value for n, value in sizes.items() if n in known}
      | {"dtype": jnp.dtype(sizes["dtype"])},
    )
  )


def make_denoiser(config, dataset: Dataset, student: bool = False) -> Denoiser:
  """The network of teacher and auxiliary, or the student's: the same with a noise input."""
  process = make_process(config, dataset)
  kind, dim, scale = "none", 0, 1.0
  if student:
    kind, dim, scale = (config.distill[n] for n in ("noise", "noise_dim", "noise_scale"))
  channels = noise.noise_channels(kind, dataset.shape, dim)
  num_unused = process.num_categories - dataset.num_categories
  module = make_network(
    config, dataset, process.num_states, num_unused=num_unused, noise_channels=channels
  )
  # The bound puts the prediction inside the posterior, which only for masks makes no difference.
  leave_one_out = config.teacher.loss == "bound" and config.process.name != "masked"
  prediction = "leave_one_out" if leave_one_out else "mean"
  return Denoiser(module, process, prediction, dataset.shape, kind, dim, scale)


def load_ema(source: Source, init: Callable[[jax.Array], Any], mesh: jax.sharding.Mesh) -> Any:
  """The averaged parameters of a model, made by `init(key)`, sharded over the mesh.

  Raises `DamagedModelError` where they are not those that were recorded.
  """
  ema = _load_part(source, "ema", init, mesh)
  if source.digest not in (None, digest(ema)):
    why = "its parameters are not those recorded"
    raise checkpoints.DamagedModelError(source.path / "checkpoints", source.step, why)
  return ema


def _load_part(source: Source, name: str, init: Callable, mesh: jax.sharding.Mesh) -> Any:
  boxed = jax.eval_shape(init, jax.random.key(0))
  shardings = parallel.state_shardings(mesh, boxed)
  abstract = checkpoints.abstract_like(nn.unbox(boxed), shardings)
  return checkpoints.restore_part(source.path / "checkpoints", source.step, {name: abstract})[name]


def load_student(
  source: Source, student: Denoiser, teacher: Denoiser, mesh: jax.sharding.Mesh
) -> Any:
  """As `load_ema`, the parameters of a student; changes of low rank are merged with their trunk."""
  c = source.config.distill
  if not c.lora_rank:
    return load_ema(source, student.init, mesh)

  make = lambda key: low_rank.make_changes(key, teacher.init(key), c.lora_rank, student.init(key))
  changes, cast = load_ema(source, make, mesh), lambda x: x.astype(c.teacher_dtype)
  trunk = _load_part(source, "teacher", lambda key: jax.tree.map(cast, teacher.init(key)), mesh)
  return jax.jit(low_rank.merge)(trunk, changes)


@dataclasses.dataclass(frozen=True, eq=False)
class ExactTeacher:
  """The known `log E[x | z_t]` of synthetic data, in the place of a `Denoiser`."""

  joint: Any
  process: processes.Process

  def given(self, batch: Batch) -> "ExactTeacher":
    """Itself: what is known needs no labels."""
    return self

  def log_mean(self, params, z: jax.Array, t: jax.Array, key=None) -> jax.Array:
    """That of tokens int `[B, ...]`, float32 `[B, ..., K]`; it has no parameters."""
    return self.joint.log_mean(self.process, z, t)


def make_sampling(evaluate, name: str) -> samplers.Sampling:
  """The sampler of a name as the section `evaluate` of a config has it, with its grid."""
  grid = grids.GRIDS[evaluate.grid]
  return samplers.Sampling(
    registry.find(name)(**evaluate.get(name, {})),
    grid(evaluate.times) if evaluate.times else grid(),
    ends_greedily=evaluate.last_step == "greedy",
  )


def make_sampler(
  denoiser: Denoiser,
  mesh: jax.sharding.Mesh | None,
  predict: Callable | None = None,
  temperature: float = 1.0,
  top_p: float = 1.0,
  draw: Callable[..., samplers.Samples] = samplers.ancestral_sample,
) -> Callable[..., samplers.Samples]:
  """`sample(params, key, shape, nfe, labels=None, with_path=False, batch=None)` of a denoiser.

  `predict` may take the denoiser's place, `draw` that of ancestral sampling. A batch is split over
  the mesh, if any; blocks are drawn one after the other, each in `nfe` evaluations. A denoiser that
  knows classes is asked for the `labels` int `[B]`, by default for all classes equally often; one
  of answers for those to the prompts of a `batch` of examples.
  """

  def split(z):
    if mesh is None:
      return z
    return jax.lax.with_sharding_constraint(z, parallel.batch_sharding(mesh))

  def sample(params, key, shape, nfe, labels=None, with_path=False, batch=None):
    if denoiser.num_blocks == 1:
      if labels is None:
        labels = jnp.arange(shape[0]) % max(denoiser.num_classes, 1)
      of_labels = predict or denoiser.given(batch or Batch(None, labels)).log_mean
      has_prompts = batch is not None and batch.prompts is not None
      # A sampler that chooses positions leaves out those of the prompt; one of a method does not.
      prompt = {"prompt": _prompt(batch)} if has_prompts and isinstance(draw, Sampling) else {}
      return draw(
        lambda z, t, key: of_labels(params, split(z), t, key),
        denoiser.process, key, shape, nfe, temperature, top_p, with_path, **prompt,
      )  # fmt: skip
    return samplers.sample_blocks(
      lambda cache, start, z, t, key: (
        denoiser.block_log_mean(params, cache, start, split(z), t, key)
      ),
      lambda cache, start, x: denoiser.remember(params, cache, start, split(x)),
      denoiser.empty_cache(shape[0]),
      denoiser.process, key, shape, denoiser.num_blocks, nfe, temperature, top_p, with_path, draw,
    )  # fmt: skip

  return sample


def _prompt(batch: Batch) -> samplers.Prompt:
  is_known = jnp.arange(batch.tokens.shape[1]) < jnp.asarray(batch.prompts)[:, None]
  return samplers.Prompt(jnp.asarray(batch.tokens), is_known)
