"""All samplers: one token follows the data exactly in any number of steps; devices change none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax import parallel
from dmmd_jax.data import toy
from dmmd_jax.diffusion import processes, registry
from dmmd_jax.diffusion.samplers import Sampling, grids
from dmmd_jax.diffusion.samplers.remasking import ReMDM
from dmmd_jax.diffusion.samplers.revealing import Confidence

PROBS = np.array([0.6, 0.3, 0.1])
ONE = toy.Mixture(np.array([1.0]), PROBS[None, None])
PROCESSES = {
  "masked": processes.Masked(3),
  "uniform": processes.Uniform(3),
  "marginal": processes.Marginal(3, probs=(0.2, 0.3, 0.5)),
}
VARIANTS = {
  "confidence": [Confidence(score=score) for score in ("probability", "margin", "entropy")],
  "remdm": [ReMDM(variant, 0.5) for variant in ("cap", "rescale", "conf", "loop")],
}
CASES = [
  (sampler, process)
  for name in registry.SAMPLERS
  for sampler in VARIANTS.get(name, [registry.find(name)()])
  for process in sampler.processes
]


@pytest.mark.parametrize(("sampler", "process"), CASES, ids=lambda x: repr(x).split("(")[0])
def test_one_token_follows_the_data_in_any_number_of_steps(sampler, process):
  process, n = PROCESSES[process], 100_000
  predict = lambda z, t, key: ONE.log_mean(process, z, t)
  sampling = Sampling(sampler, grids.Cosine())
  draw = jax.jit(lambda key, nfe: sampling(predict, process, key, (n, 1), nfe).tokens)
  for nfe in (1, 2, 7):
    counts = np.bincount(np.asarray(draw(jax.random.key(nfe), nfe))[:, 0], minlength=3)
    assert len(counts) == 3
    assert ((counts - n * PROBS) ** 2 / (n * PROBS)).sum() < 18.4  # 1 in 10,000


@pytest.mark.parametrize("name", registry.SAMPLERS)
def test_eight_devices_draw_what_one_draws(name):
  """Of predictions that are the same to the last bit."""
  settings = {"remdm": {"variant": "conf"}, "confidence": {"choice_temperature": 1.0}}.get(name, {})
  sampling, process = Sampling(registry.find(name)(**settings)), processes.Masked(6)
  table = np.random.default_rng(0).normal(0, 2, (10, 7, 6)).astype(np.float32)
  mesh = parallel.make_mesh()

  def draw(sharding, key):
    def predict(z, t, key):
      z = jax.lax.with_sharding_constraint(z, sharding)
      return jax.nn.log_softmax(jnp.asarray(table)[np.arange(10), jnp.roll(z, 1, axis=1)])

    return sampling(predict, process, key, (32, 10), 4)

  shardings = parallel.batch_sharding(mesh), jax.sharding.SingleDeviceSharding(jax.devices()[0])
  many, one = (jax.jit(draw, static_argnums=0)(s, jax.random.key(0)) for s in shardings)
  assert len(mesh.devices.flat) == 8
  np.testing.assert_array_equal(many.tokens, one.tokens)
  np.testing.assert_allclose(many.entropy, one.entropy, rtol=1e-5)
  if many.spent is not None:
    np.testing.assert_array_equal(many.spent, one.spent)
