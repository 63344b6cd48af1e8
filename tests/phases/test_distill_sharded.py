"""A step of every method on a mesh of devices, beside that of one device."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax import parallel
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.distillation import registry
from dmmd_jax.phases import distill
from tests.phases.tables import DATA, KEY, make_config, make_params, tables  # noqa: F401

SETTINGS = {
  "sdtt": {"noise": "none", "sdtt": {"rounds": 1, "teacher_nfe": 4}},
  "dcd": {"noise": "none", "dcd": {"rounds": 1, "teacher_nfe": 4}},
  "di4c": {"noise": "latent", "di4c": {"num_latents": 2, "teacher_steps": 4}},
  "didi": {"didi": {"group_size": 2}},
  "redi": {"noise_dim": 4, "redi": {"num_pairs": 32, "chunk": 16, "nfe": 2}},
}
SIZE = 8


@pytest.mark.parametrize("name", registry.METHODS)
def test_a_step_on_eight_devices_is_that_of_one(name):
  changes = {"updates": "joint", "num_steps": 3} | SETTINGS.get(name, {})
  config = make_config(method=name, **changes)
  config.distill.student_optimizer.update({"learning_rate": 0.1, "warmup_steps": 0})
  method = distill.make_method(config, DATA)
  _, _, theta = make_params(method.parts.process.num_states)
  rows = np.arange(SIZE)
  batch = Batch(jnp.asarray(DATA.train[:SIZE]), jnp.asarray(DATA.train_labels[:SIZE]))

  def run(devices):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(-1, 1, 1), parallel.AXES)
    abstract = jax.eval_shape(method.init, KEY, theta)
    shardings = parallel.state_shardings(mesh, abstract)
    placed = parallel.place_batch(mesh, jax.tree.map(np.asarray, batch), rows, SIZE)
    with parallel.use(mesh):
      init = jax.jit(lambda *args: nn.unbox(method.init(*args)), out_shardings=shardings)
      state = init(KEY, theta)
      return jax.device_get(jax.jit(method.step)(state, placed, jax.random.key(7)))

  found, expected = run(jax.devices()), run(jax.devices()[:1])
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, found, expected)
  assert all(np.isfinite(value) for value in found[1].values())
