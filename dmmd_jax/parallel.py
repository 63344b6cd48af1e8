"""The device mesh, and which axis of which array is split over it."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# The axes that carry different examples.
_BATCH = ("data", "fsdp")

# Logical axis of a parameter or an activation -> mesh axis. Axes of size 1 split nothing.
RULES = (
  ("batch", _BATCH),
  ("embed", "fsdp"),
  ("vocab", "tensor"),
  ("heads", "tensor"),
  ("mlp", "tensor"),
  ("patch", None),
  ("embed_out", None),
  ("layers", None),
)


def make_mesh(axis_sizes: tuple[int, int, int] = (-1, 1, 1)) -> Mesh:
  """A mesh of all devices with axes `data`, `fsdp`, `tensor`; -1 takes the devices left over."""
  sizes = np.empty(jax.device_count()).reshape(axis_sizes).shape
  return Mesh(mesh_utils.create_device_mesh(sizes), AXES)


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
  """Within it, what networks say of the axes of their activations holds for `mesh`."""
  with jax.set_mesh(mesh), nn.logical_axis_rules(RULES):
    yield


def platform() -> str | None:
  """Of the devices of the mesh in use, if any; they need not be those of this machine."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device and device.platform


def device_kind() -> str:
  """What devices of the mesh in use call themselves, such as "TPU v5 lite"; "" without a mesh."""
  device = jax.sharding.get_abstract_mesh().abstract_device
  return device.device_kind if device else ""


def batch_shards(mesh: Mesh | None = None) -> int:
  """How many parts of a batch the devices of a mesh have, or of the one in use; 1 without one."""
  sizes = (mesh or jax.sharding.get_abstract_mesh()).shape
  return math.prod(sizes.get(axis, 1) for axis in _BATCH)


def split_examples(function: Callable, *arrays: jax.Array) -> Any:
  """`function(*arrays)` of arrays `[B, ...]`, by every device of the mesh in use for its examples.

  Where they do not divide the batch, by every device for all of them. For what XLA cannot split.
  """
  whole = any(len(x) % batch_shards() for x in arrays)
  spec = PartitionSpec(() if whole else _BATCH)
  return jax.shard_map(function, in_specs=spec, out_specs=spec, check_vma=False)(*arrays)


def describe(mesh: Mesh) -> str:
  """The devices of a mesh in words, such as `4 x 2 x 1 TPU v5 lite`."""
  sizes = " x ".join(str(size) for size in mesh.devices.shape)
  return f"{sizes} {mesh.devices.flat[0].device_kind}"


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis of a batch, over all axes that carry different examples."""
  return NamedSharding(mesh, PartitionSpec(_BATCH))


def state_shardings(mesh: Mesh, abstract_state):
  """Shardings of a state whose parameters carry logical axis names (flax `LogicallyPartitioned`).

  Optimiser states made from such parameters carry the same names; all else is replicated, and so
  are axes that a mesh axis does not divide, such as a vocabulary of 50,257.
  """
  specs = nn.get_partition_spec(abstract_state)
  shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
  return jax.tree.map(_where_it_divides, shardings, nn.unbox(abstract_state))


def _where_it_divides(sharding: NamedSharding, array) -> NamedSharding:
  def size(axes):
    return math.prod(sharding.mesh.shape[a] for a in ([axes] if isinstance(axes, str) else axes))

  axes = zip(array.shape, sharding.spec, strict=False)
  spec = [axis if axis and n % size(axis) == 0 else None for n, axis in axes]
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """Which rows of a batch the devices of this process hold, in order: all that it has to read."""
  shards = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
  return np.unique(np.concatenate([np.arange(batch_size)[index] for index in shards]))


def place_batch(mesh: Mesh, batch: Any, rows: np.ndarray, batch_size: int) -> Any:
  """One global batch of the `rows` that each process has read, arrays `[len(rows), ...]`."""

  def place(local):
    def shard(index):
      start, stop, _ = index[0].indices(batch_size)
      first = np.searchsorted(rows, start)
      return local[first : first + stop - start]

    shape = (batch_size, *local.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), shard)

  return jax.tree.map(place, batch)
