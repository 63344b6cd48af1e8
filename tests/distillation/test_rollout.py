"""A student's step with prompts: they are there, whatever is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.distillation.rollout import Noises, Steps, rollout, with_prompts

K, D = 5, 4
MASKED = processes.Masked(K, schedules.Linear())


@pytest.mark.parametrize("rows", [1, 3])
def test_prompts_are_put_back_for_every_row_of_an_example(rows):
  x = jnp.arange(12).reshape(3, D)
  z = jnp.full((3 * rows, D), -1)
  found = np.asarray(with_prompts(z, x, jnp.array([0, 2, D]))).reshape(3, rows, D)
  expected = [[-1, -1, -1, -1], [4, 5, -1, -1], [8, 9, 10, 11]]
  np.testing.assert_array_equal(found, np.repeat(np.array(expected)[:, None], rows, 1))
  assert with_prompts(z, x, None) is z


@pytest.mark.parametrize("renoise", ["posterior", "forward"])
@pytest.mark.parametrize("noises", [Noises(), Noises(2), Noises(3, 2)], ids=repr)
def test_a_step_keeps_prompts_and_moves_answers(noises, renoise):
  num = 64
  x = jax.random.randint(jax.random.key(1), (num, D), 0, K)
  prompts = jnp.arange(num) % (D + 1)
  steps = Steps(MASKED, steps=1, renoise=renoise)
  given = noises.repeat((x, prompts))

  def student(eta, z, t, key):  # certain of the prompt, as a network is, and of nothing else
    del eta, z, t, key
    is_prompt = jnp.arange(D) < given[1][:, None]
    certain = jnp.log(jnp.maximum(jax.nn.one_hot(given[0], K), 1e-30))
    return jnp.where(is_prompt[..., None], certain, -jnp.log(K))

  r = jax.jit(lambda key: rollout(steps, student, None, x, key, noises, prompts))(jax.random.key(0))
  is_prompt = np.arange(D) < np.asarray(given[1])[:, None]
  clean = np.asarray(given[0])
  for tokens in (r.z_t, r.x, r.z_s):
    np.testing.assert_array_equal(np.asarray(tokens)[is_prompt], clean[is_prompt])
  assert 0.1 < (np.asarray(r.z_s) == K)[~is_prompt].mean() < 0.9
