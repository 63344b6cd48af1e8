import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_dmmd
from dmmd_jax import optimization
from dmmd_jax.data.pipeline import Batches, Dataset
from dmmd_jax.flops import flops
from dmmd_jax.networks.noise import noise_channels
from dmmd_jax.networks.uvit import UViT, UViTConfig
from dmmd_jax.phases import build, teacher

SMALL = UViTConfig(
  shape=(8, 8, 3),
  num_states=6,
  num_categories=5,
  channels=(8, 16),
  res_blocks=1,
  width=32,
  depth=2,
  heads=2,
  embed_dim=4,
)


def inputs(config, batch=2):
  rng = np.random.default_rng(1)
  z = rng.integers(0, config.num_states, (batch, *config.shape), np.int32)
  return z, np.linspace(0.2, 0.8, batch, dtype=np.float32)


def with_another_pixel(z):
  """The red of the first pixel of every image is another."""
  z = z.copy()
  z[:, 0, 0, 0] = (z[:, 0, 0, 0] + 1) % SMALL.num_states
  return z


def random_params(config, noise=None):
  """Parameters away from their zero initialisation, so that every path matters."""
  z, t = inputs(config)
  params = nn.unbox(jax.eval_shape(UViT(config).init, jax.random.key(0), z, t, noise))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), params)


@functools.partial(jax.jit, static_argnums=0, static_argnames="training")
def jitted(config, params, *args, **kwargs):
  return UViT(config).apply(params, *args, **kwargs)


def apply(*args, **kwargs):
  return np.asarray(jitted(*args, **kwargs))


def test_logits_have_the_shape_of_the_tokens_and_start_at_zero():
  z, t = inputs(SMALL)
  net = UViT(SMALL)
  logits = jax.jit(lambda key: net.apply(nn.unbox(net.init(key, z, t)), z, t))(jax.random.key(0))
  assert logits.shape == (*z.shape, 5) and logits.dtype == jnp.float32
  assert (logits == 0).all()


def test_every_pixel_sees_every_other_and_channels_have_tables_of_their_own():
  params, (z, t) = random_params(SMALL), inputs(SMALL)
  before = apply(SMALL, params, z, t)
  after = apply(SMALL, params, with_another_pixel(z), t)
  assert (np.abs(after - before).max(-1) > 1e-6).all()
  params["params"]["tokens"][0] = 0.0  # that of red
  grey, red, blue = (
    apply(SMALL, params, np.broadcast_to(2 + pixel, z.shape), t)
    for pixel in np.int32([[0, 0, 0], [1, 0, 0], [0, 0, 1]])
  )
  assert (red == grey).all() and np.abs(blue - grey).max() > 1e-3


def test_fine_detail_goes_through_the_skips():
  """With the way up from the transformer closed, a pixel still reaches its neighbours."""
  params, (z, t) = random_params(SMALL), inputs(SMALL)
  for name in ("up_0", "up_1"):
    params["params"][name] = jax.tree.map(np.zeros_like, params["params"][name])
  before = apply(SMALL, params, z, t)
  after = apply(SMALL, params, with_another_pixel(z), t)
  moved = np.abs(after - before).max((-1, -2))[0]
  assert moved[0, 0] > 1e-6 and moved[1, 1] > 1e-6


@functools.cache
def gradient(remat):
  config = dataclasses.replace(SMALL, channels=(8,), remat=remat)
  params, (z, t) = random_params(config), inputs(config)
  return jax.jit(jax.grad(lambda p: jnp.square(UViT(config).apply(p, z, t)).mean()))(params)


@pytest.mark.parametrize("remat", ["full", "products"])
def test_remat_changes_nothing(remat):
  close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
  jax.tree.map(close, gradient(remat), gradient("none"))


def test_classes_matter_and_no_label_is_a_class_of_its_own():
  config = dataclasses.replace(SMALL, num_classes=3)
  params, (z, t) = random_params(config), inputs(config)
  of = {k: apply(config, params, z, t, labels=np.full(2, k)) for k in (0, 1, 3)}
  assert min(np.abs(of[a] - of[b]).max() for a, b in ((0, 1), (0, 3), (1, 3))) > 1e-4
  np.testing.assert_array_equal(apply(config, params, z, t), of[3])


def test_dropout_acts_in_training_only():
  config = dataclasses.replace(SMALL, dropout=0.5)
  params, (z, t) = random_params(config), inputs(config)
  drop = [
    apply(config, params, z, t, training=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)
  ]
  assert np.abs(drop[0] - drop[1]).max() > 1e-4
  program, without = (jax.make_jaxpr(UViT(c).apply)(params, z, t) for c in (config, SMALL))
  assert str(program) == str(without)


def test_student_starts_as_its_teacher_and_noise_enters_at_full_resolution():
  student = dataclasses.replace(SMALL, noise_channels=noise_channels("pyramid", SMALL.shape, 2))
  z, t = inputs(SMALL)
  rng = np.random.default_rng(2)
  noise = rng.normal(size=(2, 8, 8, student.noise_channels)).astype(np.float32)
  teacher_params = random_params(SMALL)["params"]
  init = lambda key: nn.unbox(UViT(student).init(key, z, t, noise))["params"]
  assert set(jax.eval_shape(init, jax.random.key(1))) - set(teacher_params) == {"noise"}
  fresh = jax.jit(lambda key: init(key)["noise"])(jax.random.key(1))
  params = {**teacher_params, "noise": fresh}
  expected = apply(SMALL, {"params": teacher_params}, z, t)
  np.testing.assert_array_equal(apply(student, {"params": params}, z, t, noise), expected)
  params["noise"] = jax.tree.map(lambda x: np.full(x.shape, 0.3, x.dtype), fresh)
  moved = np.abs(apply(student, {"params": params}, z, t, noise) - expected)
  assert (moved.max((-1, -2)) > 1e-6).all()


def analytic_forward_flops(c: UViTConfig) -> float:
  """Twice the multiplications of one image's convolutions and matrix products."""
  height, width, channels = c.shape
  pixels = height * width
  macs = pixels * channels * c.num_states * c.embed_dim  # look-up by one-hot product
  macs += pixels * channels * c.embed_dim * c.channels[0]
  macs += pixels * c.channels[0] * channels * c.num_categories
  for level, features in enumerate(c.channels):
    at_level = pixels // 4**level
    res_block = at_level * 2 * 9 * features**2 + c.width * 5 * features
    join = at_level * 2 * features * features
    below = (*c.channels, c.width)[level + 1]
    down = at_level // 4 * 4 * features * below
    up = at_level // 4 * below * 4 * features
    macs += c.res_blocks * (2 * res_block + join) + down + up
  positions = pixels // 4 ** len(c.channels)
  linear = (4 + 2 * c.mlp_ratio) * c.width**2
  attention = 2 * positions * c.width
  macs += c.depth * (positions * (linear + attention) + 6 * c.width**2)
  macs += 2 * c.width**2 + c.width * 2 * c.channels[0]  # time
  return 2.0 * macs


def test_operations_are_those_of_the_analytic_count():
  config = dataclasses.replace(SMALL, shape=(32, 32, 3), num_states=257, num_categories=256)
  config = dataclasses.replace(config, width=64, channels=(32, 48), depth=3, res_blocks=2)
  z, t = inputs(config, batch=4)
  params = random_params(config)
  forward = flops(lambda p: UViT(config).apply(p, z, t), params)
  both = flops(jax.grad(lambda p: UViT(config).apply(p, z, t).sum()), params)
  expected = 4 * analytic_forward_flops(config)
  assert abs(forward / expected - 1) < 0.1, (forward, expected)
  assert abs(both / (3 * expected) - 1) < 0.1, (both, 3 * expected)


def test_overfits_64_images():
  """The teacher's loss is down by half after 80 updates on the same few images of two halves."""
  config = cifar_dmmd.get_config()
  config.network.update(
    {
      "channels": (16,), "res_blocks": 1, "width": 32, "depth": 1, "heads": 2, "embed_dim": 8,
      "dtype": "float32", "dropout": 0.0,
    }
  )  # fmt: skip
  config.process.schedule = "linear"
  config.teacher.optimizer.update({"learning_rate": 4e-3, "warmup_steps": 10, "b1": 0.9})
  left = np.random.default_rng(0).integers(0, 16, (64, 1, 1, 1))
  images = (left + np.where(np.arange(8) < 4, 0, 3)[:, None]) % 16 + np.zeros((8, 1, 1), int)
  dataset = Dataset(images, images, 16)
  denoiser = build.make_denoiser(config, dataset)
  optimizer = optimization.make_optimizer(config.teacher.optimizer, 80)
  step = jax.jit(teacher.make_step(config, denoiser, optimizer), donate_argnums=0)
  init = jax.jit(lambda key: teacher.initial_state(nn.unbox(denoiser.init(key)), optimizer))
  state, losses = init(jax.random.key(0)), []
  batches = Batches(dataset, 16, seed=0).read(0)
  for i, batch in zip(range(80), batches, strict=False):
    state, metrics = step(state, batch, jax.random.key(i))
    losses.append(float(metrics["loss"]))
  assert abs(losses[0] - np.log(16)) < 0.5  # three standard deviations for so few tokens
  assert np.mean(losses[-20:]) < 0.5 * losses[0], losses
