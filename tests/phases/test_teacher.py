"""Steps of supervised training, and the likelihood that a trained teacher is given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion.processes import Masked
from dmmd_jax.phases import teacher


@pytest.mark.parametrize("in_bits", [True, False])
def test_a_step_reports_its_loss_in_nats_and_where_asked_in_bits(in_bits):
  config = ConfigDict({"ema": 0.9, "microbatches": 1})
  optimizer = optax.sgd(0.5)
  loss = lambda params, batch, key: params * batch.tokens.mean()
  step = teacher.supervised_step(loss, optimizer, config, in_bits)
  state = teacher.initial_state(jnp.float32(2.0), optimizer)
  state, metrics = step(state, Batch(jnp.array([[3.0], [5.0]])), jax.random.key(0))
  np.testing.assert_allclose(metrics["loss"], 8.0)
  np.testing.assert_allclose(metrics["gradient_norm"], 4.0)
  assert ("bits_per_token" in metrics) == in_bits
  if in_bits:
    np.testing.assert_allclose(metrics["bits_per_token"], 8.0 / np.log(2.0))
  np.testing.assert_allclose(state.model.params, 0.0)  # 2 - 0.5 * 4


class Frequencies:
  """A denoiser that predicts frequencies, whatever it sees: its bound is their cross-entropy."""

  process, num_blocks, num_classes = Masked(3), 1, 0

  def given(self, batch):
    return self

  def log_probs(self, params, z, t, key):
    return jnp.broadcast_to(params, (*z.shape, 3))


@pytest.mark.parametrize("batch_size", [4, 100])
def test_the_bound_of_every_example_is_its_own(batch_size):
  """Also of those that do not fill a batch, and unbiased at low-discrepancy times."""
  log_p = jnp.log(jnp.array([0.7, 0.2, 0.1]))
  x = np.array([[0, 0, 1, 2]] * 3 + [[2, 2, 2, 2]] * 2 + [[0, 0, 0, 0]] * 2)
  nats = teacher.negative_elbo(Frequencies(), log_p, x, 0, batch_size, draws=400)
  assert nats.shape == (7,)
  np.testing.assert_allclose(nats, -np.asarray(log_p)[x].mean(-1), rtol=0.15)
  few = teacher.negative_elbo(Frequencies(), log_p, x, 0, batch_size)
  assert few.shape == (7,) and (few != nats).any()
