import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_dmmd
from dmmd_jax import optimization
from dmmd_jax.data.images import stripes
from dmmd_jax.data.pipeline import Batches, Dataset
from dmmd_jax.flops import flops
from dmmd_jax.networks.noise import noise_channels, sample_noise
from dmmd_jax.networks.uvit import UViT, UViTConfig
from dmmd_jax.phases import build, teacher

SMALL = UViTConfig(
  shape=(8, 8, 3),
  num_states=6,
  num_categories=5,
  channels=(8, 16),
  res_blocks=2,
  width=32,
  depth=2,
  heads=2,
  embed_dim=4,
)


def inputs(config, batch=2):
  z = jax.random.randint(jax.random.key(0), (batch, *config.shape), 0, config.num_states)
  return z, jnp.linspace(0.2, 0.8, batch)


def random_params(config, noise=None):
  """Parameters away from their zero initialisation, so that every path matters."""
  z, t = inputs(config)
  params = nn.unbox(jax.eval_shape(UViT(config).init, jax.random.key(0), z, t, noise))
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), params)


def apply(config, params, *args, **kwargs):
  return jax.jit(lambda params: UViT(config).apply(params, *args, **kwargs))(params)


def test_logits_have_the_shape_of_the_tokens_and_start_at_zero():
  z, t = inputs(SMALL)
  params = jax.jit(UViT(SMALL).init)(jax.random.key(0), z, t)
  logits = apply(SMALL, nn.unbox(params), z, t)
  assert logits.shape == (*z.shape, 5) and logits.dtype == jnp.float32
  assert (logits == 0).all()


def test_every_pixel_sees_every_other_and_channels_have_tables_of_their_own():
  params, (z, t) = random_params(SMALL), inputs(SMALL, batch=1)
  before = apply(SMALL, params, z, t)
  after = apply(SMALL, params, z.at[0, 0, 0, 0].set((z[0, 0, 0, 0] + 1) % 6), t)
  assert (jnp.abs(after - before).max(-1) > 1e-6).all()
  same = jnp.full_like(z, 2)
  red, blue = (apply(SMALL, params, same.at[..., c].set(3), t) for c in (0, 2))
  assert jnp.abs(red - blue).max() > 1e-3


def test_fine_detail_goes_through_the_skips():
  """With the way up from the transformer closed, a pixel still reaches its neighbours."""
  params, (z, t) = random_params(SMALL), inputs(SMALL, batch=1)
  params["params"]["up_1"] = jax.tree.map(jnp.zeros_like, params["params"]["up_1"])
  params["params"]["up_0"] = jax.tree.map(jnp.zeros_like, params["params"]["up_0"])
  before = apply(SMALL, params, z, t)
  after = apply(SMALL, params, z.at[0, 0, 0, 0].set((z[0, 0, 0, 0] + 1) % 6), t)
  moved = jnp.abs(after - before).max((-1, -2))[0]
  assert moved[0, 0] > 1e-6 and moved[1, 1] > 1e-6


@pytest.mark.parametrize("remat", ["full", "products"])
def test_remat_changes_nothing(remat):
  params, (z, t) = random_params(SMALL), inputs(SMALL)

  def gradient(config):
    return jax.jit(jax.grad(lambda p: jnp.square(UViT(config).apply(p, z, t)).mean()))(params)

  again = dataclasses.replace(SMALL, remat=remat)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    gradient(SMALL),
    gradient(again),
  )


def test_classes_matter_and_no_label_is_a_class_of_its_own():
  config = dataclasses.replace(SMALL, num_classes=3)
  params, (z, t) = random_params(config), inputs(config)
  of = {k: apply(config, params, z, t, labels=jnp.full(2, k)) for k in (0, 1, 3)}
  assert min(jnp.abs(of[a] - of[b]).max() for a, b in ((0, 1), (0, 3), (1, 3))) > 1e-4
  np.testing.assert_array_equal(apply(config, params, z, t), of[3])


def test_dropout_acts_in_training_only():
  config = dataclasses.replace(SMALL, dropout=0.5)
  params, (z, t) = random_params(config), inputs(config)
  drop = [
    apply(config, params, z, t, training=True, rngs={"dropout": jax.random.key(k)}) for k in (0, 1)
  ]
  assert jnp.abs(drop[0] - drop[1]).max() > 1e-4
  np.testing.assert_array_equal(apply(config, params, z, t), apply(SMALL, params, z, t))


def test_student_starts_as_its_teacher_and_noise_enters_at_full_resolution():
  student = dataclasses.replace(SMALL, noise_channels=noise_channels("pyramid", SMALL.shape, 2))
  z, t = inputs(SMALL)
  noise = sample_noise(jax.random.key(2), "pyramid", 2, SMALL.shape, 2)
  teacher_params = random_params(SMALL)["params"]
  fresh = nn.unbox(jax.jit(UViT(student).init)(jax.random.key(1), z, t, noise))["params"]
  assert set(fresh) - set(teacher_params) == {"noise"}
  params = {**fresh, **teacher_params}
  expected = apply(SMALL, {"params": teacher_params}, z, t)
  np.testing.assert_array_equal(apply(student, {"params": params}, z, t, noise), expected)
  params["noise"] = jax.tree.map(lambda x: x + 0.3, params["noise"])
  moved = jnp.abs(apply(student, {"params": params}, z, t, noise) - expected)
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
  """The teacher's loss is down by half after 160 updates on the same few images."""
  config = cifar_dmmd.get_config()
  config.network.update(
    {
      "channels": (24,), "res_blocks": 1, "width": 64, "depth": 1, "heads": 2, "embed_dim": 16,
      "dtype": "float32", "dropout": 0.0,
    }
  )  # fmt: skip
  config.process.schedule = "linear"
  config.teacher.optimizer.update({"learning_rate": 2e-3, "warmup_steps": 10, "b1": 0.9})
  images = stripes((16, 16, 1), num_train=64).train // 16
  dataset = Dataset(images, images, 16)
  denoiser = build.make_denoiser(config, dataset)
  optimizer = optimization.make_optimizer(config.teacher.optimizer, 160)
  step = jax.jit(teacher.make_step(config, denoiser, optimizer), donate_argnums=0)
  init = jax.jit(lambda key: teacher.initial_state(nn.unbox(denoiser.init(key)), optimizer))
  state, losses = init(jax.random.key(0)), []
  batches = Batches(dataset, 16, seed=0).read(0)
  for i, batch in zip(range(160), batches, strict=False):
    state, metrics = step(state, batch, jax.random.key(i))
    losses.append(float(metrics["loss"]))
  assert abs(losses[0] - np.log(16)) < 0.05
  assert np.mean(losses[-20:]) < 0.5 * losses[0], losses
