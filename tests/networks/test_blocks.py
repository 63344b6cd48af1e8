"""Block-autoregressive and causal networks: who sees whom, with and without a cache."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.networks.transformer import Transformer, TransformerConfig

PLAIN = TransformerConfig(
  shape=(8,), num_states=6, num_categories=5, width=16, depth=2, heads=2, conv=3
)
BLOCKS = dataclasses.replace(PLAIN, block=4)
KEYS = jax.random.split(jax.random.key(0), 3)
Z, X = jax.random.randint(KEYS[0], (2, 8), 0, 6), jax.random.randint(KEYS[1], (2, 8), 0, 5)
T = jnp.repeat(jnp.array([[0.3, 0.8], [0.5, 0.2]]), 4, axis=1)


def random_params(config):
  """Parameters none of which is zero."""
  z = jnp.zeros((1, *config.shape), jnp.int32)
  params = nn.unbox(jax.jit(Transformer(config).init)(KEYS[2], z, jnp.zeros(1))["params"])
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), params)


@functools.partial(jax.jit, static_argnums=0)
def apply(config, params, *args, **kwargs):
  return Transformer(config).apply({"params": params}, *args, **kwargs)


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("block", [1, 2, 4])
def test_with_a_cache_and_without_the_logits_are_equal(block, positions):
  config = dataclasses.replace(PLAIN, block=block, positions=positions)
  params = random_params(config)
  t = jnp.repeat(jax.random.uniform(KEYS[0], (2, 8 // block)), block, axis=1)
  at_once = apply(config, params, Z, t, context=X)
  cache, parts = config.empty_cache(2), []
  for start in range(0, 8, block):
    rows = slice(start, start + block)
    logits, _ = apply(config, params, Z[:, rows], t[:, start], cache=cache, start=start)
    parts.append(logits)
    _, cache = apply(config, params, X[:, rows], jnp.zeros(2), cache=cache, start=start)
  np.testing.assert_allclose(jnp.concatenate(parts, 1), at_once, atol=2e-5)


def test_a_block_as_long_as_the_sequence_is_the_plain_network():
  params = random_params(PLAIN)
  whole = dataclasses.replace(PLAIN, block=8)
  plain = apply(PLAIN, params, Z, T[:, 0])
  np.testing.assert_allclose(apply(whole, params, Z, T[:, 0]), plain, atol=1e-6)
  in_one_pass = apply(whole, params, Z, jnp.repeat(T[:, :1], 8, 1), context=X)
  np.testing.assert_allclose(in_one_pass, plain, atol=2e-5)


def test_a_block_sees_itself_and_clean_blocks_before_it_and_nothing_else():
  params = random_params(BLOCKS)
  logits = apply(BLOCKS, params, Z, T, context=X)

  def moved(z=Z, x=X):
    gap = jnp.abs(apply(BLOCKS, params, z, T, context=x) - logits).max((0, 2))
    return np.asarray(gap > 1e-6)

  first, second = np.arange(8) < 4, np.arange(8) >= 4
  assert (moved(z=Z.at[:, 1].set((Z[:, 1] + 1) % 6)) == first).all()
  assert (moved(z=Z.at[:, 6].set((Z[:, 6] + 1) % 6)) == second).all()
  assert (moved(x=X.at[:, 1].set((X[:, 1] + 1) % 5)) == second).all()
  assert not moved(x=X.at[:, 6].set((X[:, 6] + 1) % 5)).any()


def test_blocks_of_one_are_causal():
  causal = dataclasses.replace(PLAIN, block=1, conv=0)
  params = random_params(causal)
  logits = apply(causal, params, X, jnp.zeros(2))
  other = apply(causal, params, X.at[:, 5].set((X[:, 5] + 1) % 5), jnp.zeros(2))
  np.testing.assert_array_equal(jnp.abs(other - logits).max((0, 2)) > 1e-6, np.arange(8) >= 5)


def test_every_block_has_a_time_of_its_own():
  params = random_params(BLOCKS)
  gap = apply(BLOCKS, params, Z, T.at[:, 4:].set(0.9), context=X)
  gap = jnp.abs(gap - apply(BLOCKS, params, Z, T, context=X)).max((0, 2))
  np.testing.assert_array_equal(gap > 1e-6, np.arange(8) >= 4)
