"""Digests: every bit counts, the mesh does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from dmmd_jax import digest as module
from dmmd_jax import parallel
from dmmd_jax.digest import digest

TREE = {
  "kernel": np.arange(64, dtype=np.float32).reshape(8, 8),
  "layers": np.arange(64, dtype=np.float32).reshape(4, 8, 2),
  "bias": np.zeros(8, np.float32),
  "count": np.int32(3),
  "half": np.ones((4, 2), jnp.bfloat16),
  "flag": np.array([True, False]),
}


def changed(name, value):
  return TREE | {name: value}


@pytest.mark.parametrize(
  "other",
  [
    changed("kernel", TREE["kernel"].T.copy()),
    changed("kernel", TREE["kernel"].reshape(4, 16)),
    changed("kernel", np.nextafter(TREE["kernel"], np.inf, dtype=np.float32)),
    changed("layers", TREE["layers"][::-1].copy()),
    changed("bias", np.array([0.0] * 7 + [-0.0], np.float32)),
    changed("count", np.uint32(3)),
    changed("half", np.array([[1, 1], [1, 1], [1, 1], [1, 1.0078125]], jnp.bfloat16)),
    changed("flag", np.array([False, True])),
    {"weight" if name == "kernel" else name: leaf for name, leaf in TREE.items()},
  ],
  ids=["order", "shape", "last_bit", "layers", "sign", "dtype", "bfloat16", "bool", "name"],
)
def test_any_difference_changes_the_digest(other):
  assert digest(jax.tree.map(jnp.asarray, other)) != digest(jax.tree.map(jnp.asarray, TREE))


@pytest.mark.parametrize(
  ("spec", "layers"),
  [
    (("data", None), (None, "fsdp", "tensor")),
    ((None, "tensor"), ("tensor", "fsdp", None)),
    (("fsdp", ("data", "tensor")), (None, None, None)),
  ],
)
def test_neither_the_mesh_nor_who_adds_up_makes_a_difference(spec, layers, monkeypatch):
  mesh = parallel.make_mesh((2, 2, 2))
  sharding = NamedSharding(mesh, PartitionSpec(*spec))
  of_layers = NamedSharding(mesh, PartitionSpec(*layers))
  split = changed("kernel", jax.device_put(TREE["kernel"], sharding))
  split["layers"] = jax.device_put(TREE["layers"], of_layers)
  assert len(split["kernel"].sharding.device_set) == 8
  by_host = digest(jax.tree.map(jnp.asarray, TREE))
  assert digest(split) == by_host
  monkeypatch.setattr(module, "_ON_HOST", -1)
  assert digest(split) == digest(jax.tree.map(jnp.asarray, TREE)) == digest(TREE) == by_host
