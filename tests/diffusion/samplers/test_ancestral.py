"""Ancestral sampling; its law is tested beside those of the correctors, in test_remasking.py."""

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.data import toy
from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.diffusion.samplers.ancestral import Ancestral


def test_evaluations_that_would_reveal_nothing_are_left_out_and_the_tokens_are_the_same():
  process, joint, calls = processes.Masked(6), toy.mixture(5, 6, 3, 0.9), []

  def predict(z, t, key):
    jax.debug.callback(lambda t: calls.append(float(t)), t[0])
    return joint.log_mean(process, z, t)

  def draw(sampler):
    args = predict, process, jax.random.key(1), (3, 5), 40
    drawn = jax.jit(lambda: Sampling(sampler)(*args, with_path=True))()
    jax.effects_barrier()
    number = len(calls)
    calls.clear()
    return jax.tree.map(np.asarray, drawn), number

  (plain, all_steps), (skipping, some) = draw(Ancestral()), draw(Ancestral(skip=True))
  np.testing.assert_array_equal(skipping.path, plain.path)
  changed = (plain.path[1:] != plain.path[:-1]).any(2)
  np.testing.assert_array_equal(skipping.spent, changed.sum(0))
  assert plain.spent is None and all_steps == 40 and some == changed.any(1).sum() < 16
  assert jnp.isfinite(skipping.entropy)
