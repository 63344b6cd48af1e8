"""Predictions computed for a part of the positions at a time are those of all positions at once."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coins_dmmd, digits_dmmd
from dmmd_jax import optimization, parallel, positions
from dmmd_jax.data.pipeline import Batch, Dataset
from dmmd_jax.distillation import rollout
from dmmd_jax.networks import gpt2
from dmmd_jax.phases import build, distill, reference, teacher
from dmmd_jax.positions import Deferred, map_positions, whole
from tests.pairs import in_pairs

KEY = jax.random.key(7)
TEXT = Dataset(np.zeros((1, 16), np.int32), np.zeros((1, 16), np.int32), 5)
IMAGES = Dataset(np.zeros((1, 8, 8, 1), np.int32), np.zeros((1, 8, 8, 1), np.int32), 5)
LABELLED = Dataset(IMAGES.train, IMAGES.train, 5, np.full(1, 2), np.full(1, 2))


def in_parts(monkeypatch, num_bytes=200):
  """As small as they can be, from here on."""
  monkeypatch.setattr(positions, "_PART_BYTES", num_bytes)


def test_parts_of_positions_are_joined_in_their_order(monkeypatch):
  x = np.arange(2 * 12.0, dtype=np.float32).reshape(2, 12)
  features = np.arange(2 * 6.0, dtype=np.float32).reshape(2, 6)  # two positions each
  t = np.array([1.0, 2.0], np.float32)
  seen = []

  def logits(features, t):
    return (jnp.repeat(features, 2, 1)[..., None] + jnp.arange(4.0)) * t[:, None, None]

  def function(array, x, t):
    seen.append(array.shape)
    return array.sum(-1) + x * t[:, None], {"x": x}

  deferred = Deferred(logits, (features, t))
  assert deferred.shape == (2, 12, 4) and deferred.nbytes == 2 * 12 * 4 * 4
  in_one = lambda *args: map_positions(function, *args)
  in_several = lambda *args: map_positions(function, *args)
  expected = jax.jit(in_one)(deferred, x, t)
  in_parts(monkeypatch, 2 * 4 * 4 * 4)
  found = jax.jit(in_several)(deferred, x, t)
  assert seen == [(2, 12, 4), (2, 4, 4)]
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  # Arrays that are there already are taken as they are.
  jax.eval_shape(lambda: in_several(whole(deferred), x, t))
  assert seen[-1] == (2, 12, 4)


def test_parts_are_as_many_as_fit_and_divide_every_axis(monkeypatch):
  seen = []

  def num_parts(length, patches, num_bytes):
    in_parts(monkeypatch, num_bytes)
    logits = lambda h: jnp.zeros((1, h.shape[1] * (length // patches), 2))
    function = lambda array: seen.append(array.shape[1]) or array[..., 0]
    compute = lambda features: map_positions(function, Deferred(logits, (features,)))
    seen.clear()
    jax.eval_shape(compute, jax.ShapeDtypeStruct((1, patches, 1), jnp.float32))
    return length // seen[0]

  assert num_parts(24, 12, 24 * 8) == 1
  assert num_parts(24, 12, 23 * 8) == 2
  assert num_parts(24, 12, 5 * 8) == 6
  assert num_parts(24, 12, 1) == 12
  with parallel.use(parallel.make_mesh((4, 2, 1))):  # of which each device has an eighth
    assert num_parts(24, 12, 3 * 8) == 1
    assert num_parts(24, 12, 8) == 3


def make_config(dataset, **distill_settings):
  config = (coins_dmmd if dataset is TEXT else digits_dmmd).get_config()
  config.network.update(
    {"name": "transformer", "width": 16, "depth": 1, "heads": 2, "embed_dim": 4}
  )
  config.network.update({"patch": 2, "conv": 0, "block": 0, "classes": dataset is LABELLED})
  d = config.distill
  d.update({"teacher": "network", "noise": "gaussian", "student_nfe": 2, "from_prior": False})
  d.score.update({"scales": ((0, 1, (2.0,)),), "target_nfe": 2})
  for name, value in distill_settings.items():
    *section, name = name.split("__")
    of_method = section in (["score"], ["dmmd_kernel"])
    target = d[section[0]] if of_method else config[section[0]] if section else d
    target[name] = value
  return config


def parameters(init, seed):
  """Random where a network begins with zeros."""
  rng = np.random.default_rng(seed)
  shapes = nn.unbox(jax.eval_shape(init, KEY))
  return jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes)


def make_batch(dataset, size=4):
  tokens = np.random.default_rng(1).integers(0, 5, (size, *dataset.shape), np.int32)
  return Batch(tokens, np.arange(size) % 3 if dataset is LABELLED else None)


def distillation(dataset, **settings):
  """Losses with gradients in all parameters of student and auxiliary model."""
  config = make_config(dataset, **settings)
  method = distill.make_method(config, dataset)
  student, denoiser = method.parts.student, method.parts.auxiliary
  params = parameters(student.init, 2), parameters(denoiser.init, 3), parameters(denoiser.init, 4)

  def loss(eta, phi, theta):
    if config.distill.method == "kernel_score":
      return method.loss(eta, theta, make_batch(dataset), KEY)
    generator, auxiliary, metrics = method.losses(eta, phi, theta, make_batch(dataset), KEY)
    return generator + 0.7 * auxiliary, metrics

  return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(*params)


def training_of_a_teacher(dataset, **settings):
  config = make_config(dataset, **settings)
  denoiser = build.make_denoiser(config, dataset)

  def loss(params):
    return teacher.teacher_loss(params, denoiser, config.teacher, make_batch(dataset), KEY)

  return jax.jit(jax.value_and_grad(loss))(parameters(denoiser.init, 2))


def samples(dataset, **settings):
  config = make_config(dataset, **settings)
  denoiser = build.make_denoiser(config, dataset).guided(config.distill.guidance)
  sample = build.make_sampler(denoiser, None, temperature=0.8, top_p=0.9)
  draw = jax.jit(lambda params: sample(params, KEY, (64, *dataset.shape), 3))
  return draw(parameters(denoiser.init, 2))


def likelihood_by_gpt2():
  module = gpt2.GPT2(gpt2.GPT2Config(7, 8, 8, 1, 2))
  params = parameters(lambda key: module.init(key, jnp.zeros((1, 1), jnp.int32))["params"], 2)
  x = np.random.default_rng(3).integers(0, 7, (3, 8), np.int32)
  loss = lambda params: reference.gpt2_nll(module, params, x).mean()
  return jax.jit(jax.value_and_grad(loss))(params)


UNIFORM = {"process__name": "uniform"}
BOUND = UNIFORM | {"teacher__loss": "bound", "loss": "bound", "auxiliary_target": "hard"}
CASES = {
  "forward": functools.partial(distillation, TEXT, method="dmmd", renoise="forward", top_p=0.8),
  "guided": functools.partial(distillation, TEXT, method="dmmd", guidance=1.5),
  "uniform": functools.partial(distillation, TEXT, method="dmmd", **BOUND),
  "score": functools.partial(distillation, TEXT, method="kernel_score", score__num_noises=3),
  "marginal": functools.partial(
    distillation, TEXT, method="kernel_score", score__objective="marginal"
  ),
  "blocks": functools.partial(distillation, TEXT, method="dmmd_kernel", network__block=8),
  "guided_images": functools.partial(
    distillation,
    LABELLED,
    method="dmmd_kernel",
    guidance=1.5,
    score__target="teacher",
    dmmd_kernel__dmmd_noises="first",
  ),
  "teacher_uniform": functools.partial(training_of_a_teacher, TEXT, **BOUND),
  "samples": functools.partial(samples, TEXT),
  "guided_samples": functools.partial(samples, TEXT, guidance=1.5),
}
WITH_TRANSFORMERS = {
  "teacher": functools.partial(training_of_a_teacher, TEXT),
  "teacher_of_images": functools.partial(training_of_a_teacher, IMAGES),
  "samples_of_images": functools.partial(samples, LABELLED, guidance=1.5),
  "gpt2": likelihood_by_gpt2,
}


@pytest.mark.parametrize("name", CASES | WITH_TRANSFORMERS)
def test_losses_gradients_and_draws_are_those_of_all_positions(name, monkeypatch):
  if name in CASES:
    in_pairs(monkeypatch)
  compute = (CASES | WITH_TRANSFORMERS)[name]
  expected = compute()
  numbers = []
  split = positions._split
  monkeypatch.setattr(positions, "_split", lambda x, n: numbers.append(n) or split(x, n))
  in_parts(monkeypatch)
  found = compute()
  assert min(numbers) > 1

  def compare(a, b):
    if np.issubdtype(a.dtype, np.integer):
      np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

  jax.tree.map(compare, found, expected)


def test_gradients_of_a_network_in_bfloat16(monkeypatch):
  in_pairs(monkeypatch)
  compute = functools.partial(training_of_a_teacher, TEXT, network__dtype="bfloat16")
  expected = compute()
  in_parts(monkeypatch)
  close = functools.partial(np.testing.assert_allclose, rtol=0.05, atol=0.02)
  jax.tree.map(close, compute(), expected)


def test_a_rollout_draws_the_same_tokens(monkeypatch):
  in_pairs(monkeypatch)
  config = make_config(TEXT, method="dmmd")
  student = build.make_denoiser(config, TEXT, student=True)
  steps = rollout.Steps(student.process)

  def draw(eta):
    r = rollout.rollout(steps, student.log_mean, eta, make_batch(TEXT).tokens, KEY)
    return r.x, r.z_s

  params = parameters(student.init, 2)
  expected = jax.jit(draw)(params)
  in_parts(monkeypatch)
  found = jax.jit(lambda eta: draw(eta))(params)  # traced anew
  jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("phase", ["teacher", "distill"])
def test_no_array_has_all_states_of_all_positions(phase, monkeypatch):
  """In the program of a step, with an alphabet whose size nothing else has."""
  dataset = Dataset(np.zeros((1, 16), np.int32), np.zeros((1, 16), np.int32), 37)
  config = make_config(TEXT, method="dmmd", top_p=0.8)
  if phase == "distill":
    in_pairs(monkeypatch)
  denoiser = build.make_denoiser(config, dataset)
  params = parameters(denoiser.init, 2)
  if phase == "teacher":
    optimizer = optimization.make_optimizer(config.teacher.optimizer, 10)
    step = teacher.make_step(config, denoiser, optimizer)
    init, size = lambda params: teacher.initial_state(params, optimizer), 4
  else:
    method = distill.make_method(config, dataset)
    init, size = lambda params: nn.unbox(method.init(KEY, params)), 4 * method.batches_per_step
    step = method.step
  state = jax.eval_shape(init, params)
  batch = Batch(jax.ShapeDtypeStruct((size, 16), jnp.int32))

  def largest():
    text = str(jax.make_jaxpr(lambda *args: step(*args))(state, batch, KEY))  # traced anew
    shapes = (found.split(",") for found in positions_of_37(text))
    return max(int(np.prod([int(n) for n in shape if n != "37"])) for shape in shapes)

  assert largest() >= 4 * 16
  in_parts(monkeypatch, 4 * 2 * 37 * 4)  # two positions
  assert largest() <= max(4 * 2, 16)  # 16 is the width of the network


def positions_of_37(text):
  """The shapes with that axis, such as `4,2,37`, in the text of a program."""
  return [x for x in re.findall(r"\[([\d,]+)\]", text) if "37" in x.split(",")]
