"""The device mesh, and which axis of which array is split over it."""

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp", "tensor")

# Logical axis of a parameter -> mesh axis. Axes of size 1 in the mesh split nothing.
RULES = (
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
  devices = np.array(jax.devices()).reshape(axis_sizes)
  return Mesh(devices, AXES)


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """The first axis of a batch, over all axes that carry different examples."""
  return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_shardings(mesh: Mesh, abstract_state):
  """Shardings of a state whose parameters carry logical axis names (flax `LogicallyPartitioned`).

  Optimiser states made from such parameters carry the same names; all else is replicated, and so
  are axes that a mesh axis does not divide, such as a vocabulary of 50,257.
  """
  specs = nn.get_partition_spec(abstract_state)
  shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
  return jax.tree.map(_where_it_divides, shardings, nn.unbox(abstract_state))


def _where_it_divides(sharding: NamedSharding, array) -> NamedSharding:
  axes = zip(array.shape, sharding.spec, strict=False)
  spec = [axis if axis and n % sharding.mesh.shape[axis] == 0 else None for n, axis in axes]
  return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def place_batch(mesh: Mesh, batch: np.ndarray) -> jax.Array:
  """Puts a host batch `[B, ...]`, the same on every process, on the devices of the mesh."""
  return jax.make_array_from_callback(batch.shape, batch_sharding(mesh), batch.__getitem__)
