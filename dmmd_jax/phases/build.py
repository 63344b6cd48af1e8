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
from dmmd_jax.data import alphabets, digits, images, text, tfds_text, toy
from dmmd_jax.data.pipeline import Batch, Dataset, random_rows
from dmmd_jax.diffusion import processes, samplers, schedules
from dmmd_jax.digest import digest
from dmmd_jax.networks import noise, transformer, uvit
from dmmd_jax.networks.layers import Cache
from dmmd_jax.records import Source

# Examples whose tokens are counted for the marginal process.
_COUNTED = 1_000_000


def make_dataset(config) -> Dataset:
  """Raises `TextError` or `ImageError` for data, or a tokenizer, that cannot be had."""
  c = config.dataset
  if c.name == "digits":
    return digits.load()
  if c.name in ("coins", "mixture"):
    return toy.load(c.name)
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
      f"the images of {c.name} are {dataset.shape}; dataset.shape is {c.shape}: set it so"
    )
  if config.network.classes and not dataset.num_classes:
    raise images.ImageError(f"network.classes is True; {c.name} has no labels")
  chooses = "evaluate" in config.get("phases", ()) and config.evaluate.split == "validation"
  if chooses and dataset.validation is None:
    raise images.ImageError(
      f"evaluate.split is validation; {c.name} has no such split: set it to held_out"
    )
  return dataclasses.replace(dataset, flip=c.flip)


def make_texts(config) -> Dataset:
  """Raises `TextError` for text, or a tokenizer, that cannot be had."""
  c = config.dataset
  tokenizer = make_tokenizer(config)
  if c.name == "english":
    dataset = text.load_english(tokenizer, c.length)
  elif c.name == "textfile":
    dataset = text.load_files(c.path, tokenizer, c.length)
  else:
    dataset = tfds_text.load(c.name, c.path, tokenizer, c.length)
  shortest = min(len(dataset.validation), len(dataset.held_out))
  if "evaluate" in config.get("phases", ()) and shortest < config.evaluate.block_size:
    raise alphabets.TextError(
      f"{c.name} has {shortest} sequences in its validation or test split; expected at least"
      f" evaluate.block_size ({config.evaluate.block_size}): lower it, or give more text"
    )
  return dataset


def make_tokenizer(config) -> alphabets.Alphabet | alphabets.BytePairs:
  """Raises `TextError` for a tokenizer that cannot be had."""
  c = config.dataset
  return alphabets.make_tokenizer(c.alphabet, c.unknown, c.tokenizer)


def outline(config) -> Dataset:
  """What a data set of text is like, without the texts: enough to make networks of."""
  tokenizer = make_tokenizer(config)
  nothing = np.zeros((0, config.dataset.length), np.int32)
  return Dataset(nothing, nothing, tokenizer.num_categories, tokenizer=tokenizer)


def make_process(config, dataset: Dataset) -> processes.Process:
  schedule = {
    "linear": schedules.Linear(),
    "cosine": schedules.Cosine(),
    "polynomial": schedules.Polynomial(config.process.schedule_power),
  }[config.process.schedule]
  if config.process.name == "marginal":
    # Texts begin at every token.
    rows = dataset.train[:: dataset.shape[0]] if dataset.tokenizer else dataset.train
    rows = random_rows(rows, _COUNTED)
    counts = np.bincount(rows.reshape(-1), minlength=dataset.num_categories) + 1.0
    return processes.Marginal(
      dataset.num_categories, schedule, probs=tuple((counts / counts.sum()).tolist())
    )
  process = {"masked": processes.Masked, "uniform": processes.Uniform}[config.process.name]
  return process(dataset.num_categories, schedule)


@dataclasses.dataclass(frozen=True, eq=False)
class Denoiser:
  """A network with the meaning of what it predicts, `mean` or `leave_one_out`.

  One of several blocks predicts a block from the clean blocks before it: `given` them all
  (`context`) in training, from a cache in sampling. One that knows classes is `given` labels, of
  which `num_classes` itself stands for none; with `guidance` w it predicts in proportion to
  `p(x | label)^(1 + w) / p(x)^w` (classifier-free guidance, arXiv 2207.12598), in two evaluations.
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
    )

  def guided(self, guidance: float) -> "Denoiser":
    return dataclasses.replace(self, guidance=guidance)

  def evaluations(self, steps: int) -> int:
    """NFE: how often the network sees a position while it is sampled in so many `steps`."""
    writing = 1 if self.num_blocks > 1 else 0  # of the clean block to the cache
    return steps * (2 if self._is_guided else 1) + writing

  @property
  def _is_guided(self) -> bool:
    return bool(self.guidance and self.num_classes)

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
  ) -> jax.Array:
    """Log-probabilities float32 `[B, ..., K]`, in the network's own meaning.

    A student draws its noise from `key`; the other networks need none but for dropout.
    """
    given = {"context": self.context, "labels": self.labels}
    given = {n: jnp.repeat(x, len(z) // len(x), axis=0) for n, x in given.items() if x is not None}
    if self.training:
      given |= {"training": True, "rngs": {"dropout": jax.random.fold_in(key, 1)}}
    predict = functools.partial(self.module.apply, {"params": params}, z, t, self._noise(key, z))
    log_probs = jax.nn.log_softmax(predict(**given))
    if self._is_guided:
      given["labels"] = jnp.full(len(z), self.num_classes)
      without = jax.nn.log_softmax(predict(**given))
      log_probs = jax.nn.log_softmax(log_probs + self.guidance * (log_probs - without))
    return log_probs

  def log_mean(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    """`log E[x | z_t]`, whatever the network predicts."""
    return self._to_mean(self.log_probs(params, z, t, key), z, t)

  def block_log_mean(
    self, params: Any, cache: Cache, start: jax.Array, z: jax.Array, t: jax.Array, key
  ) -> jax.Array:
    """`log E[x | z_t, clean blocks before]` of the block `z` that begins at token `start`."""
    noise = self._noise(key, z)
    logits, _ = self.module.apply({"params": params}, z, t, noise, cache=cache, start=start)
    return self._to_mean(jax.nn.log_softmax(logits), z, t)

  def remember(self, params: Any, cache: Cache, start: jax.Array, x: jax.Array) -> Cache:
    """The cache with a clean block `x` `[B, block]` written."""
    clean = jnp.zeros(len(x))
    return self.module.apply({"params": params}, x, clean, cache=cache, start=start)[1]

  def empty_cache(self, batch_size: int) -> Cache:
    return self.module.config.empty_cache(batch_size)

  def _to_mean(self, log_probs: jax.Array, z: jax.Array, t: jax.Array) -> jax.Array:
    return log_probs if self.prediction == "mean" else self.process.to_mean(log_probs, z, t)

  def _noise(self, key: jax.Array | None, z: jax.Array) -> jax.Array | None:
    drawn = noise.sample_noise(key, self.noise_kind, z.shape[0], z.shape[1:], self.noise_dim)
    return None if drawn is None else self.noise_scale * drawn


def make_network(config, dataset: Dataset, num_states: int, **sizes) -> nn.Module:
  """The network of a config, but for some `sizes`, with the shapes of a data set."""
  sizes = config.network.to_dict() | sizes
  network, network_config = {
    "transformer": (transformer.Transformer, transformer.TransformerConfig),
    "uvit": (uvit.UViT, uvit.UViTConfig),
  }[sizes.pop("name")]
  return network(
    network_config(
      shape=dataset.shape,
      num_states=num_states,
      num_categories=dataset.num_categories,
      num_classes=dataset.num_classes if sizes.pop("classes") else 0,
      **sizes | {"dtype": jnp.dtype(sizes["dtype"])},
    )
  )


def make_denoiser(config, dataset: Dataset, student: bool = False) -> Denoiser:
  """The network of teacher and auxiliary, or the student's: the same with a noise input."""
  process = make_process(config, dataset)
  kind, dim, scale = "none", 0, 1.0
  if student:
    kind, dim, scale = (config.distill[n] for n in ("noise", "noise_dim", "noise_scale"))
  channels = noise.noise_channels(kind, dataset.shape, dim)
  module = make_network(config, dataset, process.num_states, noise_channels=channels)
  # The bound puts the prediction inside the posterior, which only for masks makes no difference.
  leave_one_out = config.teacher.loss == "bound" and config.process.name != "masked"
  prediction = "leave_one_out" if leave_one_out else "mean"
  return Denoiser(module, process, prediction, dataset.shape, kind, dim, scale)


def load_ema(source: Source, init: Callable[[jax.Array], Any], mesh: jax.sharding.Mesh) -> Any:
  """The averaged parameters of a model, made by `init(key)`, sharded over the mesh.

  Raises `DamagedModelError` where they are not those that were recorded.
  """
  boxed = jax.eval_shape(init, jax.random.key(0))
  shardings = parallel.state_shardings(mesh, boxed)
  abstract = checkpoints.abstract_like(nn.unbox(boxed), shardings)
  directory = source.path / "checkpoints"
  ema = checkpoints.restore_part(directory, source.step, {"ema": abstract})["ema"]
  if source.digest not in (None, digest(ema)):
    why = "its parameters are not those recorded"
    raise checkpoints.DamagedModelError(directory, source.step, why)
  return ema


def exact_teacher(dataset: Dataset, process: processes.Process):
  """The known `log E[x | z_t]` of synthetic data, with the signature of `Denoiser.log_mean`."""
  return lambda params, z, t, key=None: dataset.joint.log_mean(process, z, t)


def make_sampler(
  denoiser: Denoiser,
  mesh: jax.sharding.Mesh,
  predict: Callable | None = None,
  temperature: float = 1.0,
  top_p: float = 1.0,
) -> Callable[..., samplers.Samples]:
  """`sample(params, key, shape, nfe, with_path=False)` of a denoiser, or of `predict` in its place.

  A batch is split over the mesh; blocks are drawn one after the other, each in `nfe` evaluations.
  A denoiser that knows classes is asked for all of them equally often.
  """

  def split(z):
    return jax.lax.with_sharding_constraint(z, parallel.batch_sharding(mesh))

  def sample(params, key, shape, nfe, with_path=False):
    if denoiser.num_blocks == 1:
      labels = jnp.arange(shape[0]) % max(denoiser.num_classes, 1)
      of_labels = predict or denoiser.given(Batch(None, labels)).log_mean
      return samplers.ancestral_sample(
        lambda z, t, key: of_labels(params, split(z), t, key),
        denoiser.process, key, shape, nfe, temperature, top_p, with_path,
      )  # fmt: skip
    return samplers.sample_blocks(
      lambda cache, start, z, t, key: (
        denoiser.block_log_mean(params, cache, start, split(z), t, key)
      ),
      lambda cache, start, x: denoiser.remember(params, cache, start, split(x)),
      denoiser.empty_cache(shape[0]),
      denoiser.process, key, shape, denoiser.num_blocks, nfe, temperature, top_p, with_path,
    )  # fmt: skip

  return sample
