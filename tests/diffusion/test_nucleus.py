"""The kernel that finds the threshold of top-p, beside the plain bisection."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from dmmd_jax import parallel
from dmmd_jax.diffusion import fast_memory, nucleus


def distributions(shape):
  return jax.nn.softmax(3.0 * jax.random.normal(jax.random.key(0), shape))


@pytest.mark.parametrize("shape", [(3, 5, 1300), (2, 16, 1024), (1, 9, 40)])
def test_the_kernel_finds_what_the_bisection_finds(shape, monkeypatch):
  monkeypatch.setattr(fast_memory, "_BLOCK_BYTES", 8 * 4 * shape[-1])  # 8 rows; the last are fewer
  probs = distributions(shape)
  for top_p in (0.1, 0.85, 1.0):
    expected = nucleus.bisect(probs, top_p)
    found = nucleus.in_fast_memory(probs, top_p, interpret=True)
    assert found.shape == (*shape[:-1], 1)
    np.testing.assert_array_equal(found, expected)
    mass = jnp.where(probs >= found, probs, 0.0).sum(-1)
    assert (mass >= top_p - 1e-5).all()


def on_tpus(function, num, platform="tpu", batch=8):
  """The operations of a function of distributions over `num` categories, on eight devices."""
  device = jax.sharding.AbstractDevice("TPU v5 lite", 1, platform)
  mesh = AbstractMesh(
    (4, 1, 2), parallel.AXES, (jax.sharding.AxisType.Auto,) * 3, abstract_device=device
  )
  with jax.sharding.use_abstract_mesh(mesh):
    return str(jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, 4, num), jnp.float32)))


def test_a_tpu_takes_the_kernel_for_large_vocabularies():
  primitives = functools.partial(on_tpus, lambda x: nucleus.smallest_kept(x, 0.8))
  assert "pallas_call" in primitives(2048) and "shard_map" in primitives(2048)
  assert "pallas_call" in primitives(2048, batch=6)  # each device does all of it
  assert "pallas_call" not in primitives(2048, platform="cpu")
  assert "pallas_call" not in primitives(256)
  probs = jax.ShapeDtypeStruct((8, 4, 2048), jnp.float32)
  plain = jax.make_jaxpr(lambda x: nucleus.smallest_kept(x, 0.8))(probs)
  assert "pallas_call" not in str(plain)
