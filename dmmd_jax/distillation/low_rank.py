"""Student and auxiliary model as changes of low rank to one trunk, the teacher's parameters.

    W' = W + down @ up,    down [..., in, r] random, up [..., r, out] zero at first

for every kernel `W` `[..., in, out]` of the network (LoRA, Hu et al., arXiv 2106.09685, section
4.1, with `alpha = r`). `W` is the frozen teacher, of which there is one copy for all three
networks; optimisers and averages are those of the changes. All else that a student has in common
with its teacher stays as it is, and what it has beyond it, the input of its noise, is trained.

`W'` is made for a step, in the precision of the trunk: its memory is that of parameters alone.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from dmmd_jax.distillation.parts import Method, Network
from dmmd_jax.optimization import Trainable


def make_changes(key: jax.Array, trunk: Any, rank: int, model: Any = None) -> dict[str, Any]:
  """Parameters of a model that is as its trunk at first.

  `trunk` and `model`, the network's own parameters where it has more than the trunk, carry logical
  axis names, and so does what is returned: `changes` by the name of a kernel, and `own`.
  """
  flat = flatten_dict(trunk, sep="/")
  kernels = {name: box for name, box in flat.items() if name.rpartition("/")[2] == "kernel"}
  keys = jax.random.split(key, len(kernels))
  changes = {
    name: _change(key, box, rank) for key, (name, box) in zip(keys, kernels.items(), strict=True)
  }
  own = flatten_dict(model or {}, sep="/")
  return {"changes": changes, "own": {name: own[name] for name in own.keys() - flat.keys()}}


def _change(key: jax.Array, kernel: nn.LogicallyPartitioned, rank: int) -> dict[str, Any]:
  *layers, size_in, size_out = nn.unbox(kernel).shape
  *names, name_in, name_out = kernel.names
  rank = min(rank, size_in, size_out)
  down = jax.random.normal(key, (*layers, size_in, rank)) / jnp.sqrt(size_in)
  return {
    "down": nn.LogicallyPartitioned(down, (*names, name_in, None)),
    "up": nn.LogicallyPartitioned(jnp.zeros((*layers, rank, size_out)), (*names, None, name_out)),
  }


def merge(trunk: Any, params: dict[str, Any]) -> Any:
  """The parameters of the network: the trunk with changes, and what is the model's own."""
  flat = flatten_dict(trunk, sep="/") | params["own"]
  for name, change in params["changes"].items():
    kernel = flat[name]
    flat[name] = (kernel + change["down"] @ change["up"]).astype(kernel.dtype)
  return unflatten_dict(flat, sep="/")


@dataclasses.dataclass(frozen=True, eq=False)
class Changed:
  """A `Network` whose parameters are changes of a trunk."""

  network: Network
  trunk: Any

  @property
  def shape(self) -> tuple[int, ...]:
    return self.network.shape

  @property
  def num_classes(self) -> int:
    return self.network.num_classes

  def given(self, batch: Any) -> "Changed":
    return dataclasses.replace(self, network=self.network.given(batch))

  def log_probs(self, params, z, t, key=None):
    return self.network.log_probs(merge(self.trunk, params), z, t, key)

  def log_mean(self, params, z, t, key=None):
    return self.network.log_mean(merge(self.trunk, params), z, t, key)

  def noise(self, key, z):
    return self.network.noise(key, z)


@dataclasses.dataclass(frozen=True)
class LowRank:
  """A `Method` that trains changes of this rank in place of whole networks.

  Only for methods that say `takes_low_rank`: their teacher stays what it was, and its parameters
  are asked of `parts.teacher` alone.
  """

  method: Method
  rank: int

  def __getattr__(self, name: str) -> Any:
    return getattr(self.method, name)

  def init(self, key: jax.Array, teacher: Any) -> Any:
    # Compiled, it makes no whole networks: of this state only the student's own is kept.
    state = self.method.init(key, teacher)
    c, (student_key, auxiliary_key) = self.method.parts.training, jax.random.split(key)
    trunk = nn.meta.replace_boxed(self.method.parts.auxiliary.init(key), teacher)
    student = make_changes(student_key, trunk, self.rank, state.student.params)
    state = state.replace(
      student=Trainable.create(student, c.student_optimizer),
      teacher=jax.tree.map(lambda x: x.astype(c.teacher_dtype), trunk),
      ema=student,
    )
    if state.auxiliary is None:
      return state
    auxiliary = make_changes(auxiliary_key, trunk, self.rank)
    return state.replace(auxiliary=Trainable.create(auxiliary, c.auxiliary_optimizer))

  def step(self, state: Any, batch: Any, key: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
    parts = self.method.parts
    changed = {
      name: Changed(getattr(parts, name), state.teacher) for name in ("student", "auxiliary")
    }
    method = dataclasses.replace(self.method, parts=dataclasses.replace(parts, **changed))
    return method.step(state, batch, key)
