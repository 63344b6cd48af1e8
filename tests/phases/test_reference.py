"""The causal language model, and block diffusion with blocks of one token."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from configs import text_dmmd
from dmmd_jax import parallel
from dmmd_jax.data import alphabets
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.data.text import from_streams
from dmmd_jax.diffusion.samplers import sample_blocks
from dmmd_jax.metrics.gradient_moment import pair_product
from dmmd_jax.networks import gpt2
from dmmd_jax.phases import build, reference, teacher
from dmmd_jax.positions import whole
from tests.networks.test_blocks import random_params

LENGTH = 8


def small_config(**network):
  config = text_dmmd.get_config()
  config.dataset.length = LENGTH
  config.network.update({"width": 16, "depth": 2, "heads": 2, "conv": 0, "remat": "none"})
  config.network.update(network)
  return config


def dataset():
  stream = np.random.default_rng(0).integers(27, size=200).astype(np.uint16)
  streams = dict.fromkeys(("train", "validation", "test"), stream)
  return from_streams(streams, alphabets.TEXT8, LENGTH, "noise")


def test_sampling_with_a_cache_draws_from_the_likelihood():
  """The nats of drawn tokens, step by step with a cache, are those of one pass over them all."""
  module = reference.make_module(small_config(), dataset())
  params = random_params(module.config)
  sample = jax.jit(functools.partial(reference.sample, module), static_argnums=(2, 3))
  drawn = sample(params, jax.random.key(1), (512, LENGTH))
  nll = jax.jit(functools.partial(reference.token_nll, module))(params, drawn.tokens)
  drawn, nll = jax.device_get((drawn, nll))
  # The entropy of each prediction is the expected nats of its draw.
  error = nll.mean(-1).std() / np.sqrt(512)
  assert abs(nll.mean() - drawn.entropy) < 4 * error
  assert drawn.tokens.max() < 27
  greedy = np.asarray(sample(params, jax.random.key(1), (4, LENGTH), 1e-3).tokens)
  shifted = np.concatenate([np.full((4, 1), 27, np.int32), greedy[:, :-1]], 1)
  logits = jax.jit(module.apply)({"params": params}, shifted, np.zeros(4, np.float32))
  np.testing.assert_array_equal(greedy, np.asarray(logits).argmax(-1))


def test_with_blocks_of_one_the_bound_is_the_autoregressive_likelihood():
  data = dataset()
  denoiser = build.make_denoiser(small_config(block=1), data)
  params = random_params(denoiser.module.config)
  # What does not depend on time has the same cross-entropy at every time.
  for name in ("time_in", "time_out"):
    params[name] = jax.tree.map(np.zeros_like, params[name])
  x = data.held_out[:4].astype(np.int32)

  @jax.jit
  def see(params, cache, start, token):
    """The prediction for a token, and the cache with that token."""
    mask = jnp.full_like(token, 27)
    log_mean = denoiser.block_log_mean(params, cache, start, mask, jnp.ones(4), None)
    return whole(log_mean), denoiser.remember(params, cache, start, token)

  cache, nats = denoiser.empty_cache(4), []
  for start in range(LENGTH):
    token = x[:, start : start + 1]
    log_mean, cache = see(params, cache, start, token)
    nats.append(-np.take_along_axis(np.asarray(log_mean[:, 0]), token, -1)[:, 0])
  likelihood = np.stack(nats, 1).mean(1)
  many = np.repeat(x, 200, axis=0)
  bound = teacher.negative_elbo(denoiser, params, many, seed=0, batch_size=len(many), draws=20)
  np.testing.assert_allclose(bound.reshape(4, -1).mean(1), likelihood, rtol=0.03)


def test_cached_and_uncached_block_sampling_give_the_same_tokens():
  data = dataset()
  denoiser = build.make_denoiser(small_config(block=4), data)
  params = random_params(denoiser.module.config)
  mesh = parallel.make_mesh()
  sample = jax.jit(build.make_sampler(denoiser, mesh), static_argnums=(2, 3))
  key = jax.random.key(3)
  cached = sample(params, key, (8, LENGTH), 3).tokens

  def predict(x, start, z, t, key):
    """The whole network on all blocks in one pass; what the later ones hold does not matter."""
    all_z = jax.lax.dynamic_update_slice_in_dim(x, z, start, 1)
    log_mean = denoiser.given(Batch(x)).log_mean(params, all_z, jnp.tile(t[:, None], (1, LENGTH)))
    return jax.lax.dynamic_slice_in_dim(whole(log_mean), start, 4, 1)

  def remember(x, start, block):
    return jax.lax.dynamic_update_slice_in_dim(x, block, start, 1)

  nothing = jnp.zeros((8, LENGTH), jnp.int32)
  uncached = jax.jit(
    lambda key: sample_blocks(
      predict, remember, nothing, denoiser.process, key, (8, LENGTH), num_blocks=2, nfe=3
    )
  )(key).tokens
  np.testing.assert_array_equal(cached, uncached)


def test_the_devices_of_a_mesh_share_what_a_language_model_measures():
  module = gpt2.GPT2(gpt2.GPT2Config(vocab_size=11, n_positions=8, n_embd=16, n_layer=1, n_head=2))
  x, data = np.random.default_rng(0).integers(11, size=(2, 40, 6)).astype(np.int32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x[:1])["params"]
  rng = np.random.default_rng(1)
  params = jax.tree.map(lambda a: rng.normal(0, 0.2, a.shape).astype(a.dtype), shapes)
  one = reference.LanguageModel(functools.partial(reference.gpt2_nll, module), params, 11, 9)
  mesh = parallel.make_mesh((4, 2, 1))
  shared = dataclasses.replace(
    one, params=jax.device_put(params, parallel.replicated(mesh)), mesh=mesh
  )
  np.testing.assert_allclose(shared.nll(x, 16), one.nll(x, 16), rtol=1e-5)  # and 8 that are left
  found, expected = (model.gradient_moment(x, data, 8) for model in (shared, one))
  np.testing.assert_allclose(found, expected, rtol=1e-4)
  with parallel.use(mesh):
    pairs = x[:16].reshape(2, 8, 6), data[:16].reshape(2, 8, 6)
    program = pair_product.lower(shared.loss, shared.params, *pairs).compile().as_text()
  # Perceptrons of one text on every device, and of the eight nowhere.
  assert "f32[1,6,64]" in program or "f32[6,64]" in program
  assert "f32[8,6,64]" not in program and "f32[48,64]" not in program
