"""What a method of distillation is, and what it is given."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
import optax

from dmmd_jax.diffusion.processes import Process
from dmmd_jax.positions import Deferred


class Network(Protocol):
  """A network as functions of its parameters; it may need a batch's labels, or its clean blocks.

  Its examples are of a `shape`, and of so many classes if it knows them; an exact teacher has none
  of this.
  """

  shape: tuple[int, ...]
  num_classes: int

  def init(self, key: jax.Array) -> Any:
    """Parameters that carry logical axis names."""

  def given(self, batch: Any) -> "Network":
    """Itself, for corruptions of the `n` examples of a batch, `B/n` in a row of each."""

  def log_probs(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> jax.Array | Deferred:
    """Log-probabilities float32 `[B, ..., K]` in the network's own meaning, `Parts.prediction`."""

  def log_mean(
    self, params: Any, z: jax.Array, t: jax.Array, key: jax.Array | None = None
  ) -> jax.Array | Deferred:
    """`log E[x | z_t]`, float32 `[B, ..., K]`.

    `key` is that of the student's noise; of keys `[B]` every example has one.
    """

  def noise(self, key: jax.Array, z: jax.Array) -> jax.Array | None:
    """A student's noise of `key` for tokens `z`, with a last axis of channels, before scaling."""


# Kinds of noise of a student that moves joint choices into it.
ANY_NOISE = ("gaussian", "pyramid", "latent", "none")


@dataclasses.dataclass(frozen=True)
class Training:
  """How a method is trained, whichever it is: the fields of `config.distill` of these names."""

  num_steps: int
  batch_size: int
  microbatches: int
  ema: float
  teacher_dtype: str
  student_optimizer: optax.GradientTransformation
  # For methods with an auxiliary model.
  auxiliary_optimizer: optax.GradientTransformation
  updates: str
  auxiliary_updates: int


@dataclasses.dataclass(frozen=True)
class Parts:
  """What a method is given: the process, three networks, what the student is for, the training.

  `teacher` is asked as it would be sampled, guided or exact; `auxiliary` is the teacher's network
  without guidance, and where student and auxiliary start. `prediction` is what all of them mean,
  `mean` or `leave_one_out`. The data have `num_tokens` categories; a process may have more, which
  never occur. `teacher_loss(params, batch, key)` is that of `config.teacher.loss`. The others are
  fields of `config.distill`.
  """

  process: Process
  teacher: Network
  student: Network
  auxiliary: Network
  prediction: str
  num_tokens: int
  num_blocks: int
  student_nfe: int
  from_prior: bool
  temperature: float
  top_p: float
  top_p_penalty: float
  training: Training
  teacher_loss: Callable[[Any, Any, jax.Array], jax.Array]


class Method(Protocol):
  """A way to distil: a frozen value of `parts` and settings, the fields of sections of a config.

  `noises` are the kinds of `distill.noise` for its student. `batches_per_step` is how many batches
  of `training.batch_size` a step is given, in one. A method whose student is not sampled as any
  other model has a function `sample` with the signature of `samplers.ancestral_sample`, a prompt
  among its arguments, and, where it takes other than `nfe` steps, `num_steps(nfe)`.
  """

  parts: Parts
  noises: tuple[str, ...]
  batches_per_step: int

  def init(self, key: jax.Array, teacher: Any) -> Any:
    """The state, a pytree whose parameters may carry logical axis names.

    A field `ema` holds the parameters of the student to sample from.
    """

  def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    """One step: the next state, and scalar metrics."""

  @staticmethod
  def problems(config: Any, shape: tuple[int, ...]) -> Iterator[str]:
    """What does not go together in a config whose examples are `shape`, a sentence each."""
