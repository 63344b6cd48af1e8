"""A step of every method on a mesh of devices, beside that of one device."""

import functools

import flax.linen as nn
import jax
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
  "dmmd_kernel": {"dmmd_kernel": {"dmmd_noises": "first", "score_stride": 2}},
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
  batch = Batch(DATA.train[:SIZE], DATA.train_labels[:SIZE])

  def run(devices, sizes):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(sizes), parallel.AXES)
    shardings = parallel.state_shardings(mesh, jax.eval_shape(method.init, KEY, theta))
    placed = parallel.place_batch(mesh, batch, rows, SIZE)

    @jax.jit
    def init_and_step(theta, batch):
      state = nn.unbox(method.init(KEY, theta))
      state = jax.lax.with_sharding_constraint(state, shardings)
      return method.step(state, batch, jax.random.key(7))

    with parallel.use(mesh):
      return jax.device_get(init_and_step(theta, placed))

  found, expected = run(jax.devices(), (2, 2, 2)), run(jax.devices()[:1], (1, 1, 1))
  close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
  jax.tree.map(close, found, expected)
  assert all(np.isfinite(value) for value in found[1].values())
