"""Splash attention beside the plain one, and where it is taken."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from dmmd_jax import parallel
from dmmd_jax.networks import attention


def arrays(shape=(2, 2, 64, 256)):
  rng = np.random.default_rng(0)
  return tuple(rng.normal(size=shape).astype(np.float32) for _ in range(3))


def shapes(*shape):
  return (jax.ShapeDtypeStruct(shape, jnp.float32),) * 3


def blocks_with_context(length, block):
  """The mask of block diffusion: noisy blocks see themselves and clean blocks before them."""
  number = np.arange(length // 2) // block
  earlier, same = number[:, None] > number, number[:, None] == number
  return np.block([[same, earlier], [np.zeros_like(same), earlier | same]])


@pytest.mark.parametrize(
  "mask",
  [None, np.tri(256, dtype=bool), blocks_with_context(256, 32)],
  ids=["all", "causal", "blocks"],
)
def test_values_and_gradients_of_splash_attention(mask):
  def value(attend):
    return lambda q, k, v: jnp.square(jnp.sin(attend(q, k, v, mask))).sum()

  splash = lambda *args: attention.splash(*args, interpret=True).swapaxes(1, 2)
  found, expected = (
    jax.jit(jax.value_and_grad(value(attend), (0, 1, 2)))(*arrays())
    for attend in (splash, attention.attend)
  )
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def primitives(mask=None, length=512, platform="tpu", batch=8, traced=False):
  """Names of what `attend` runs within a mesh of devices that are not here."""
  device = jax.sharding.AbstractDevice("TPU v5 lite", 1, platform)
  mesh = AbstractMesh(
    (4, 1, 2), parallel.AXES, (jax.sharding.AxisType.Auto,) * 3, abstract_device=device
  )
  with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
    if traced:
      return str(jax.make_jaxpr(attention.attend)(*shapes(batch, 2, 64, length), mask))
    attend = lambda q, k, v: attention.attend(q, k, v, mask)
    return str(jax.make_jaxpr(attend)(*shapes(batch, 2, 64, length)))


def test_a_tpu_attends_by_its_kernel_where_it_can():
  assert "pallas_call" in primitives() and "shard_map" in primitives()
  assert "pallas_call" in primitives(np.tri(512, dtype=bool))
  assert "pallas_call" not in primitives(platform="cpu")
  assert "pallas_call" not in primitives(length=500)
  assert "pallas_call" not in primitives(length=256)  # where it would not pay
  assert "pallas_call" not in primitives(batch=6)  # examples that four devices cannot share
  assert "pallas_call" not in primitives(np.tri(512, dtype=bool), traced=True)
  outside = str(jax.make_jaxpr(attention.attend)(*shapes(8, 2, 64, 512)))
  assert "pallas_call" not in outside


def implementation(
  monkeypatch, mask=None, shape=(8, 2, 64, 512), dtype="bfloat16", kind="NVIDIA A100"
):
  """What `attend` asks `jax.nn.dot_product_attention` for on GPUs that are not here."""
  asked = []

  def plain(q, k, v, *, mask=None, implementation):
    asked.append((implementation, mask is not None))
    return q

  monkeypatch.setattr(jax.nn, "dot_product_attention", plain)
  device = jax.sharding.AbstractDevice(kind, None, "gpu")
  mesh = AbstractMesh(
    (4, 1, 2), parallel.AXES, (jax.sharding.AxisType.Auto,) * 3, abstract_device=device
  )
  with jax.sharding.use_abstract_mesh(mesh), nn.logical_axis_rules(parallel.RULES):
    jax.eval_shape(attention.attend, *(jax.ShapeDtypeStruct(shape, dtype),) * 3, mask)
  return asked


def test_a_gpu_of_nvidia_attends_by_cudnn_where_it_can(monkeypatch):
  found = lambda **changes: implementation(monkeypatch, **changes)
  assert found() == [("cudnn", False)]
  assert found(mask=np.tri(512, dtype=bool)) == [("cudnn", True)]
  for kind in ("NVIDIA H100 80GB HBM3", "NVIDIA GeForce RTX 3090", "NVIDIA RTX A6000", "NVIDIA L4"):
    assert found(kind=kind) == [("cudnn", False)]
  for kind in ("AMD Instinct", "Tesla V100", "NVIDIA GeForce RTX 2080 Ti", "NVIDIA TITAN V"):
    assert found(kind=kind) == [(None, False)]
  assert found(dtype="float32") == [(None, False)]
  assert found(shape=(8, 2, 64, 500)) == [(None, False)]
  assert found(shape=(8, 2, 60, 512)) == found(shape=(8, 2, 256, 512)) == [(None, False)]
  assert found(shape=(6, 2, 64, 512)) == [(None, False)]  # what four devices cannot share
