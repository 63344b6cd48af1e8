"""LLaDA's and Dream's networks against their authors' modules, kept in `golden_llama/`.

`make_golden_llama.py` made them.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.networks.llama import Llama
from dmmd_jax.teachers import convert
from tests.teachers.made import FOLDERS, loaded

VOCAB, MASK = 30, 27


def with_length(kind, length, **changes):
  config, params = loaded(kind)
  module = convert.make_denoiser(config).module
  return Llama(dataclasses.replace(module.config, shape=(length,), **changes)), params


def golden(kind, length):
  """Tokens with our state for a mask, and the logits of the authors' module."""
  with np.load(FOLDERS[kind] / "golden.npz") as arrays:
    tokens, out = arrays[f"tokens_{length}"], arrays[f"out_{length}"]
  return np.where(tokens == MASK, VOCAB, tokens), out


@pytest.mark.parametrize(("kind", "length"), [("llada", 8), ("dream", 8), ("dream", 5)])
def test_logits_are_those_of_the_authors(kind, length):
  module, params = with_length(kind, length)
  z, theirs = golden(kind, length)
  ours = jax.jit(module.apply)({"params": params}, z, jnp.ones(len(z)))
  others = np.arange(VOCAB) != MASK
  np.testing.assert_allclose(ours[..., others], theirs[..., others], atol=1e-4)
  assert (ours[..., MASK] < -1e8).all()  # a clean token is never the mask


def test_a_student_starts_as_its_teacher_and_sees_its_noise_everywhere():
  module, params = with_length("dream", 5)
  student, _ = with_length("dream", 5, noise_channels=3)
  z, _ = golden("dream", 5)
  t, noise = jnp.ones(len(z)), np.zeros((*z.shape, 3), np.float32)
  noise[:, 2] = 1.0
  init = lambda key: nn.unbox(student.init(key, z, t, noise))["params"]
  assert set(jax.eval_shape(init, jax.random.key(0))) - set(params) == {"noise"}
  fresh = jax.jit(lambda key: init(key)["noise"])(jax.random.key(0))  # the rest takes long
  expected = jax.jit(module.apply)({"params": params}, z, t)
  apply = jax.jit(student.apply)
  start = apply({"params": {**params, "noise": fresh}}, z, t, noise)
  np.testing.assert_allclose(start, expected, rtol=1e-5)
  learnt = jax.tree.map(lambda x: jnp.arange(x.size).reshape(x.shape) % 5.0, fresh)
  moved = jnp.abs(apply({"params": {**params, "noise": learnt}}, z, t, noise) - start)
  assert (moved[..., :MASK].max((0, 2)) > 1e-3).all()


def test_bfloat16_computes_close_to_float32():
  z, theirs = golden("llada", 8)
  module, params = with_length("llada", 8, dtype=jnp.bfloat16)
  found = jax.jit(module.apply)({"params": params}, z, jnp.ones(len(z)))
  assert found.dtype == jnp.float32
  assert np.abs(found - theirs)[..., :MASK].max() < 0.1 * np.abs(theirs).max()
