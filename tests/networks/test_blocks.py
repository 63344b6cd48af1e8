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
RNG = np.random.default_rng(0)
Z, X = RNG.integers(0, 6, (2, 8), np.int32), RNG.integers(0, 5, (2, 8), np.int32)
T = np.repeat(np.float32([[0.3, 0.8], [0.5, 0.2]]), 4, axis=1)


def random_params(config):
  """Parameters none of which is zero."""
  z = jnp.zeros((1, *config.shape), jnp.int32)
  init = jax.jit(Transformer(config).init)
  params = jax.device_get(nn.unbox(init(jax.random.key(0), z, jnp.zeros(1))["params"]))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: x + 0.3 * rng.normal(size=x.shape).astype(x.dtype), params)


@functools.partial(jax.jit, static_argnums=0)
def jitted(config, params, *args, **kwargs):
  return Transformer(config).apply({"params": params}, *args, **kwargs)


def apply(*args, **kwargs):
  return jax.device_get(jitted(*args, **kwargs))


def changed(tokens, place, number):
  """One token of both examples is another of so many."""
  tokens = tokens.copy()
  tokens[:, place] = (tokens[:, place] + 1) % number
  return tokens


@pytest.mark.parametrize(("block", "positions"), [(1, "rotary"), (2, "learned"), (4, "rotary")])
def test_with_a_cache_and_without_the_logits_are_equal(block, positions):
  config = dataclasses.replace(PLAIN, block=block, positions=positions)
  params = random_params(config)
  t = np.random.default_rng(1).uniform(size=(2, 8 // block)).astype(np.float32)
  t = np.repeat(t, block, axis=1)
  at_once = apply(config, params, Z, t, context=X)
  cache, parts = config.empty_cache(2), []
  for start in range(0, 8, block):
    rows = slice(start, start + block)
    logits, _ = apply(config, params, Z[:, rows], t[:, start], cache=cache, start=start)
    parts.append(logits)
    clean = np.zeros(2, np.float32)
    _, cache = apply(config, params, X[:, rows], clean, cache=cache, start=start)
  np.testing.assert_allclose(np.concatenate(parts, 1), at_once, atol=2e-5)


def test_a_block_as_long_as_the_sequence_is_the_plain_network():
  params = random_params(PLAIN)
  whole = dataclasses.replace(PLAIN, block=8)
  plain = apply(PLAIN, params, Z, T[:, 0])
  np.testing.assert_allclose(apply(whole, params, Z, T[:, 0]), plain, atol=1e-6)
  in_one_pass = apply(whole, params, Z, np.repeat(T[:, :1], 8, 1), context=X)
  np.testing.assert_allclose(in_one_pass, plain, atol=2e-5)


def test_a_block_sees_itself_and_clean_blocks_before_it_and_nothing_else():
  params = random_params(BLOCKS)
  logits = apply(BLOCKS, params, Z, T, context=X)

  def moved(z=Z, x=X):
    return np.abs(apply(BLOCKS, params, z, T, context=x) - logits).max((0, 2)) > 1e-6

  first, second = np.arange(8) < 4, np.arange(8) >= 4
  assert (moved(z=changed(Z, 1, 6)) == first).all()
  assert (moved(z=changed(Z, 6, 6)) == second).all()
  assert (moved(x=changed(X, 1, 5)) == second).all()
  assert not moved(x=changed(X, 6, 5)).any()


def test_blocks_of_one_are_causal():
  causal = dataclasses.replace(PLAIN, block=1, conv=0)
  params = random_params(causal)
  clean = np.zeros(2, np.float32)
  logits = apply(causal, params, X, clean)
  other = apply(causal, params, changed(X, 5, 5), clean)
  np.testing.assert_array_equal(np.abs(other - logits).max((0, 2)) > 1e-6, np.arange(8) >= 5)


def test_every_block_has_a_time_of_its_own():
  params = random_params(BLOCKS)
  later = np.concatenate([T[:, :4], np.full((2, 4), 0.9, np.float32)], 1)
  gap = apply(BLOCKS, params, Z, later, context=X)
  gap = np.abs(gap - apply(BLOCKS, params, Z, T, context=X)).max((0, 2))
  np.testing.assert_array_equal(gap > 1e-6, np.arange(8) >= 4)
