"""What a sampler is told of a prediction."""

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.diffusion.categorical import draw, uniforms
from dmmd_jax.diffusion.samplers.sampler import read


def test_a_reading_is_of_the_law_that_tokens_are_drawn_from():
  logits = 2.0 * jax.random.normal(jax.random.key(0), (300, 6))
  u = uniforms(jax.random.key(1), (300,))
  wanted = ("log_prob", "margin")

  def reading(greedy):
    of_logits = lambda x, u: read(jax.nn.log_softmax(x), u, greedy, wanted, temperature=0.5)
    return jax.tree.map(np.asarray, jax.jit(of_logits)(logits, u))

  found, greedy = reading(False), reading(True)
  p = np.exp(2.0 * np.asarray(logits, np.float64))
  p /= p.sum(-1, keepdims=True)
  two = np.sort(p, -1)[:, -2:]
  np.testing.assert_array_equal(found.x, jax.jit(draw)(jnp.log(p.astype(np.float32)), u))
  np.testing.assert_allclose(np.exp(found.log_prob), p[np.arange(300), found.x], rtol=1e-4)
  np.testing.assert_allclose(found.margin, two[:, 1] - two[:, 0], atol=1e-5)
  np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), atol=1e-5)
  np.testing.assert_array_equal(greedy.x, p.argmax(-1))
  np.testing.assert_allclose(np.exp(greedy.log_prob), two[:, 1], rtol=1e-4)
  assert (greedy.x != found.x).any() and greedy.x.dtype == np.int32
  assert read(jax.nn.log_softmax(logits), u).margin is None


def test_the_margin_of_equals_and_of_a_single_category_is_said():
  read_margin = jax.jit(
    lambda p: read(jnp.log(p[None]), jnp.zeros((1, 2)), True, ("margin",)).margin
  )
  np.testing.assert_allclose(read_margin(jnp.array([0.5, 0.5])), [0.0])
  np.testing.assert_allclose(read_margin(jnp.array([1.0])), [1.0])
