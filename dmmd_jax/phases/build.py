"""Makes the parts of an experiment from its config."""

import dataclasses
import pathlib
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax import checkpoints, parallel
from dmmd_jax.data import digits, toy
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.networks import noise, transformer


def make_dataset(config) -> Dataset:
  if config.dataset.name == "digits":
    return digits.load()
  return toy.load(config.dataset.name)


def make_process(config, dataset: Dataset) -> processes.Process:
  schedule = {
    "linear": schedules.Linear(),
    "cosine": schedules.Cosine(),
    "polynomial": schedules.Polynomial(config.process.schedule_power),
  }[config.process.schedule]
  if config.process.name == "marginal":
    counts = np.bincount(dataset.train.reshape(-1), minlength=dataset.num_categories) + 1.0
    return processes.Marginal(
      dataset.num_categories, schedule, probs=tuple((counts / counts.sum()).tolist())
    )
  process = {"masked": processes.Masked, "uniform": processes.Uniform}[config.process.name]
  return process(dataset.num_categories, schedule)


@dataclasses.dataclass(frozen=True)
class Denoiser:
  """A network with the meaning of what it predicts, `mean` or `leave_one_out`."""

  module: nn.Module
  process: processes.Process
  prediction: str
  shape: tuple[int, ...]
  noise_kind: str = "none"
  noise_dim: int = 0
  noise_scale: float = 1.0

  def init(self, key: jax.Array) -> Any:
    """Parameters that carry logical axis names."""
    z = jnp.zeros((1, *self.shape), jnp.int32)
    return self.module.init(key, z, jnp.zeros(1), self._noise(key, 1))["params"]

  def log_probs(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    """Log-probabilities float32 `[B, ..., K]`, in the network's own meaning.

    A student draws its noise from `key`; the other networks need none.
    """
    logits = self.module.apply({"params": params}, z, t, self._noise(key, z.shape[0]))
    return jax.nn.log_softmax(logits)

  def log_mean(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> jax.Array:
    """`log E[x | z_t]`, whatever the network predicts."""
    log_probs = self.log_probs(params, z, t, key)
    return log_probs if self.prediction == "mean" else self.process.to_mean(log_probs, z, t)

  def _noise(self, key: jax.Array | None, batch_size: int) -> jax.Array | None:
    drawn = noise.sample_noise(key, self.noise_kind, batch_size, self.shape, self.noise_dim)
    return None if drawn is None else self.noise_scale * drawn


def make_denoiser(config, dataset: Dataset, student: bool = False) -> Denoiser:
  """The network of teacher and auxiliary, or the student's: the same with a noise input."""
  process = make_process(config, dataset)
  kind, dim = (config.distill.noise, config.distill.noise_dim) if student else ("none", 0)
  sizes = config.network.to_dict()
  module = transformer.Transformer(
    transformer.TransformerConfig(
      shape=dataset.shape,
      num_states=process.num_states,
      num_categories=process.num_categories,
      noise_channels=noise.noise_channels(kind, dataset.shape, dim),
      **sizes | {"dtype": jnp.dtype(sizes["dtype"])},
    )
  )
  # The bound puts the prediction inside the posterior, which only for masks makes no difference.
  leave_one_out = config.teacher.loss == "bound" and config.process.name != "masked"
  prediction = "leave_one_out" if leave_one_out else "mean"
  scale = config.distill.noise_scale
  return Denoiser(module, process, prediction, dataset.shape, kind, dim, scale)


def load_ema(phase_dir: pathlib.Path, denoiser: Denoiser, mesh: jax.sharding.Mesh) -> Any:
  """The averaged parameters at the end of a phase, sharded over the mesh."""
  boxed = jax.eval_shape(denoiser.init, jax.random.key(0))
  shardings = parallel.state_shardings(mesh, boxed)
  abstract = checkpoints.abstract_like(nn.unbox(boxed), shardings)
  return checkpoints.restore_part(phase_dir / "checkpoints", {"ema": abstract})["ema"]


def exact_teacher(dataset: Dataset, process: processes.Process):
  """The known `log E[x | z_t]` of synthetic data, with the signature of `Denoiser.log_mean`."""
  return lambda params, z, t, key=None: dataset.joint.log_mean(process, z, t)
