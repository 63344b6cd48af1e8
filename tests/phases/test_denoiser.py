"""A denoiser that is given the beginnings of its examples."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import llada_dmmd
from dmmd_jax import config_file
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.diffusion.samplers.revealing import Confidence
from dmmd_jax.distillation import registry
from dmmd_jax.phases import distill, models, teacher
from dmmd_jax.positions import whole
from dmmd_jax.teachers.convert import make_denoiser

LENGTH = 8
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def answering():
  """LLaDA's denoiser of smoke, parameters, and a batch with prompts of 2 and 5 tokens."""
  config = llada_dmmd.get_config()
  config.preset = "smoke"
  config_file.apply_preset(config, {})
  config.dataset.length = LENGTH
  denoiser = make_denoiser(config)
  params = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), params)
  batch = Batch(rng.integers(0, 27, (2, LENGTH)), None, np.array([2, 5]))
  return config, denoiser, params, batch


def test_a_prompt_is_seen_and_certain_whatever_has_become_of_it(answering):
  _, denoiser, params, batch = answering
  mask = denoiser.process.num_categories
  predict = jax.jit(
    lambda z: jnp.exp(whole(denoiser.given(batch).log_mean(params, z, jnp.ones(4))))
  )
  p = predict(jnp.full((4, LENGTH), mask))  # two corruptions of each example
  z = np.repeat(batch.tokens, 2, 0)
  is_given = np.arange(LENGTH) < np.repeat(batch.prompts, 2)[:, None]
  np.testing.assert_allclose(p[is_given].max(-1), 1.0)
  np.testing.assert_array_equal(p[is_given].argmax(-1), z[is_given])
  without = dataclasses.replace(denoiser)
  visible = jnp.where(is_given, z, mask)
  expected = jax.jit(lambda z: jnp.exp(whole(without.log_mean(params, z, jnp.ones(4)))))(visible)
  np.testing.assert_allclose(p[~is_given], expected[~is_given], rtol=1e-5)


def test_a_network_without_blocks_remembers_nothing(answering):
  assert answering[1].empty_cache(2) is None


def test_losses_and_samples_are_of_answers_alone(answering):
  _, denoiser, params, batch = answering
  nats = teacher.negative_elbo(denoiser, params, batch.tokens, 0, 2, 4, batch.prompts)
  whole_prompt = np.array([LENGTH - 1, LENGTH])
  bound = functools.partial(teacher.losses_at_random_times, teacher.losses.bound, params, denoiser)
  _, by_position = jax.jit(bound)(batch._replace(prompts=whole_prompt), jax.random.key(0))
  assert nats.min() > 0.1
  np.testing.assert_allclose(by_position[:, : LENGTH - 1], 0.0, atol=1e-5)
  data = dataclasses.make_dataclass("Data", ["held_out", "held_out_prompts"])
  data = data(batch.tokens, batch.prompts)
  sample = models.build.make_sampler(denoiser, None)
  model = models._answering(models.Model("teacher", sample, params, (2,)), data)
  drawn = jax.jit(lambda key: model.sample(params, key, (4, LENGTH), 2).tokens)(jax.random.key(1))
  for tokens, row in zip(drawn, (0, 1, 0, 1), strict=True):
    length = batch.prompts[row]
    np.testing.assert_array_equal(tokens[:length], batch.tokens[row, :length])
  assert (drawn[0] != drawn[2]).any()


def test_a_sampler_that_chooses_positions_leaves_out_those_of_the_prompt(answering):
  """One token of the first example is left to draw, three of the second."""
  _, denoiser, params, batch = answering
  batch = batch._replace(prompts=np.array([LENGTH - 1, LENGTH - 3]))
  sample = models.build.make_sampler(denoiser, None, draw=Sampling(Confidence()))
  draw = jax.jit(lambda key: sample(params, key, (2, LENGTH), LENGTH, batch=batch))
  np.testing.assert_array_equal(draw(jax.random.key(0)).spent, [1, 3])


def test_distillation_has_no_gradient_from_prompts(answering):
  """Where all is given but one token, losses are those of that token."""
  config, _, params, batch = answering
  config = config.copy_and_resolve_references()
  config.distill.noise_dim = 2
  batch = batch._replace(prompts=np.full(2, LENGTH))
  data = dataclasses.make_dataclass("D", ["shape", "num_categories", "num_classes", "tokenizer"])
  method = distill.make_method(config, data((LENGTH,), 27, 0, None))
  eta = {**params, "noise": {"kernel": jnp.zeros((2, 32)), "bias": jnp.zeros(32)}}
  generator, auxiliary, _ = jax.jit(
    lambda: method.losses(eta, params, params, Batch(*batch), jax.random.key(0))
  )()
  np.testing.assert_allclose([generator, auxiliary], 0.0, atol=1e-4)


@pytest.mark.parametrize("name", ["dmmd", "dmmd_kernel", "kernel_score", "sdtt", "dcd", "di4c"])
def test_means_over_noisy_tokens_are_those_of_answers(name, answering):
  """An untrained student is as unsure as can be of all that it has to draw: prompts are certain,
  and a mean that had them would be an eighth of that."""
  config, _, params, _ = answering
  found = metrics_of(name, config, *[jax.tree.map(jnp.zeros_like, params)] * 3)
  np.testing.assert_allclose(found["entropy"], np.log(27), rtol=1e-5)


@pytest.mark.parametrize(("name", "metric"), [("didi", "log_ratio"), ("dimo", "divergence")])
def test_what_answers_are_compared_by_is_theirs(name, metric, answering):
  """The same, whether the prompt is masked or not: the mean of examples with an answer to see."""
  config, _, params, _ = answering
  zeros = jax.tree.map(jnp.zeros_like, params)
  other = jax.tree.map(lambda x: 0.1 * x, params)
  found = metrics_of(name, config, zeros, other, zeros)
  without = metrics_of(name, config, zeros, other, zeros, prompt=0)
  assert abs(found[metric]) > 0.3 * abs(without[metric]) > 0


def metrics_of(name, config, eta, phi, theta, prompt=LENGTH - 1):
  """Metrics of a method on 32 examples of which all but the last token is a prompt."""
  config = config.copy_and_resolve_references()
  config.distill.update({"method": name, "noise": registry.find(name).noises[0], "noise_dim": 2})
  data = dataclasses.make_dataclass("D", ["shape", "num_categories", "num_classes", "tokenizer"])
  method = distill.make_method(config, data((LENGTH,), 27, 0, None))
  eta = jax.tree.map(jnp.zeros_like, nn.unbox(jax.eval_shape(method.parts.student.init, KEY)))
  tokens = np.random.default_rng(1).integers(0, 27, (32, LENGTH))
  batch = Batch(tokens, None, np.full(32, prompt))
  # Parameters are arguments: jaxlib 0.10.2 on a CPU reads memory that nothing has written for a
  # product with a constant of zeros, and says nan now and then.
  if hasattr(method, "losses"):
    return jax.jit(lambda *params: method.losses(*params, batch, KEY))(eta, phi, theta)[2]
  step = (jnp.float32(0.1),) if name in ("sdtt", "dcd") else ()
  return jax.jit(lambda *params: method.loss(*params, *step, batch, KEY))(eta, theta)[1]
