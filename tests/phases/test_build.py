"""Denoisers that know classes, and images as data sets."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_dmmd, coins_dmmd, digits_dmmd
from dmmd_jax import parallel
from dmmd_jax.data.images import ImageError
from dmmd_jax.data.pipeline import Batch, Dataset
from dmmd_jax.phases import build, distill, evaluate, teacher
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.positions import whole


@pytest.fixture(scope="module")
def of_classes():
  """A denoiser of digits given their class, and parameters for which the class matters."""
  config = digits_dmmd.get_config()
  config.network.update({"width": 32, "depth": 1, "classes": True})
  denoiser = build.make_denoiser(config, build.make_dataset(config))
  params = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), params)
  return config, denoiser, params


def log_probs(denoiser, params, labels):
  z, t = jnp.full((2, 8, 8, 1), denoiser.process.num_categories), jnp.ones(2)
  denoiser = denoiser.given(Batch(None, labels))
  return jax.jit(lambda params: whole(denoiser.log_probs(params, z, t)))(params)


def test_guidance_moves_away_from_the_prediction_without_a_label(of_classes):
  _, denoiser, params = of_classes
  labels = jnp.array([3, 7])
  given, without = (log_probs(denoiser, params, y) for y in (labels, jnp.full(2, 10)))
  assert jnp.abs(given - without).max() > 0.01
  guided = log_probs(denoiser.guided(1.5), params, labels)
  expected = jax.nn.log_softmax(2.5 * given - 1.5 * without)
  np.testing.assert_allclose(guided, expected, atol=1e-5)
  np.testing.assert_array_equal(log_probs(denoiser.guided(0.0), params, labels), given)


def test_a_sampler_asks_for_all_classes_equally_often(of_classes):
  _, denoiser, _ = of_classes
  asked = []

  class Spy(Denoiser):
    def log_mean(self, params, z, t, key=None):
      asked.append(self.labels)
      return jnp.zeros((*z.shape, 17))

  spy = Spy(**{f.name: getattr(denoiser, f.name) for f in dataclasses.fields(denoiser)})
  build.make_sampler(spy, parallel.make_mesh())(None, jax.random.key(0), (40, 8, 8, 1), 1)
  assert (np.bincount(np.asarray(asked[0]), minlength=10) == 4).all()


def test_teachers_lose_some_labels_in_training(of_classes, monkeypatch):
  config, denoiser, params = of_classes
  seen = []
  monkeypatch.setattr(
    teacher, "losses_at_random_times", lambda *args: seen.append(args[3].labels) or (0.0, None)
  )
  batch = Batch(jnp.zeros((1000, 8, 8, 1), jnp.int32), jnp.full(1000, 4))
  teacher.teacher_loss(params, denoiser, config.teacher, batch, jax.random.key(0))
  counts = np.bincount(np.asarray(seen[0]), minlength=11)
  assert 60 < counts[10] < 140 and counts[4] == 1000 - counts[10]


def test_distillation_of_a_guided_teacher_in_bfloat16(of_classes):
  """Every method runs with labels; the frozen teacher is kept as the config says."""
  config, _, params = of_classes
  config = config.copy_and_resolve_references()
  config.distill.update({"batch_size": 8, "guidance": 1.0, "teacher_dtype": "bfloat16"})
  dataset = build.make_dataset(config)
  for config.distill.method, updates in (("dmmd_kernel", 2), ("kernel_score", 1)):
    config.distill.score.target = "teacher" if updates == 1 else "data"
    config.distill.score.target_nfe = 1
    method = distill.make_method(config, dataset)
    state = nn.unbox(jax.jit(method.init)(jax.random.key(1), params))
    assert {x.dtype for x in jax.tree.leaves(state.teacher)} == {jnp.dtype("bfloat16")}
    n = 8 * updates
    batch = Batch(jnp.asarray(dataset.train[:n]), jnp.asarray(dataset.train_labels[:n]))
    _, metrics = jax.jit(method.step)(state, batch, jax.random.key(2))
    assert all(jnp.isfinite(value) for value in metrics.values())


def test_images_are_what_the_config_says_or_one_clear_line(tmp_path):
  config = cifar_dmmd.get_config()
  config.dataset.name = "stripes"
  data = build.make_dataset(config)
  assert data.shape == (32, 32, 3) and data.flip and data.num_classes == 10
  np.savez(tmp_path / "grey.npz", images=np.zeros((20, 8, 8), np.uint8))
  config.dataset.update({"name": "npz", "path": str(tmp_path / "grey.npz")})
  with pytest.raises(ImageError, match=r"images of npz are \(8, 8, 1\); dataset.shape is"):
    build.make_dataset(config)
  config.dataset.shape = (8, 8, 1)
  assert build.make_dataset(config).num_classes == 0
  config.network.classes = True
  with pytest.raises(ImageError, match="npz has no labels"):
    build.make_dataset(config)


def test_without_the_weights_of_inception_one_line_says_what_is_measured_instead(capsys):
  config = cifar_dmmd.get_config()
  config.evaluate.inception = "/nowhere/weights.pth"
  assert evaluate.load_fid(config, None, None) is None
  said = capsys.readouterr().out
  assert said.count("\n") == 1 and "/nowhere/weights.pth" in said and "classifier" in said


@pytest.mark.parametrize(
  ("name", "num", "expected"),
  [("masked", 1030, 1152), ("masked", 900, 900), ("uniform", 1030, 1030)],
)
def test_large_vocabularies_end_with_categories_that_never_occur(name, num, expected):
  config = coins_dmmd.get_config()
  config.network.update({"width": 8, "depth": 1, "heads": 1})
  config.process.name = name
  rows = np.random.default_rng(0).integers(0, num, (20, 8))
  data = Dataset(rows, rows, num)
  denoiser = build.make_denoiser(config, data)
  assert denoiser.process.num_categories == expected
  params = nn.unbox(denoiser.init(jax.random.key(0)))
  z, t = jnp.full((3, 8), denoiser.process.num_states - 1), jnp.ones(3)
  probs = jnp.exp(whole(denoiser.log_mean(params, z, t)))
  assert probs.shape == (3, 8, expected) and not probs[..., num:].any()
  np.testing.assert_allclose(probs[..., :num], 1 / num, rtol=1e-4)
  loss = lambda params: teacher.teacher_loss(
    params, denoiser, config.teacher, Batch(jnp.asarray(rows)), jax.random.key(1)
  )
  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  assert jnp.isfinite(value) and all(jnp.isfinite(g).all() for g in jax.tree.leaves(grads))
  sample = build.make_sampler(denoiser, None, temperature=2.0, top_p=0.9)
  drawn = jax.jit(lambda key: sample(params, key, (50, 8), 2))(jax.random.key(2))
  assert drawn.tokens.max() < num and np.isfinite(drawn.entropy)
