import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg

from dmmd_jax import parallel
from dmmd_jax.metrics import fid
from dmmd_jax.metrics.frechet import Moments, distance, frechet_distance
from dmmd_jax.networks.weights import WeightsError
from tests.networks import make_golden_inception as maker

IMAGES = np.random.default_rng(0).integers(0, 256, (37, 4, 4, 3))


def assert_equal(x: Moments, y: Moments, rtol: float = 1e-10):
  assert x.count == y.count
  np.testing.assert_allclose(x.mean, y.mean, rtol)
  np.testing.assert_allclose(x.scatter, y.scatter, rtol, atol=rtol * np.abs(y.scatter).max())


def make_fid(devices: int = 8, scale: float = 1.0, batch_size: int = 10) -> fid.Fid:
  """Stand-in features: a random linear map of the pixels."""
  matrix = scale * np.random.default_rng(1).normal(size=(48, 5)).astype(np.float32)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1, 1), parallel.AXES)
  features = lambda p, x: jnp.tanh(x.reshape(len(x), -1) @ p)
  return fid.Fid(features, matrix, parallel.batch_sharding(mesh), batch_size)


def test_streaming_equals_one_shot():
  x = 1e3 + np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)  # far from 0
  parts = [Moments.of(part) for part in np.split(x, [1, 20, 77])]
  whole = Moments.of(x)
  assert_equal(parts[0] + parts[1] + parts[2] + parts[3], whole)
  np.testing.assert_allclose(whole.mean, x.mean(0, np.float64), rtol=1e-12)
  np.testing.assert_allclose(whole.covariance, np.cov(x, rowvar=False), rtol=1e-10)


def test_distance_is_that_of_scipy_and_torchmetrics():
  x, y = maker.feature_sets()
  a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  root = linalg.sqrtm(a @ b).real
  expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * root)
  np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-8)
  np.testing.assert_allclose(frechet_distance(x, y), np.load(maker.PATH)["frechet"], rtol=1e-8)


@pytest.mark.parametrize("count", [20, 200])
def test_equal_sets_are_at_0_even_with_fewer_samples_than_features(count):
  moments = Moments.of(np.random.default_rng(0).normal(size=(count, 64)))
  np.testing.assert_allclose(distance(moments, moments), 0, atol=1e-4)


def test_batches_on_many_devices_give_what_all_at_once_give():
  matrix = make_fid()._params
  at_once = Moments.of(np.tanh((IMAGES / 255).reshape(37, -1) @ np.asarray(matrix, np.float64)))
  assert_equal(make_fid(8).moments(IMAGES), at_once, 1e-4)
  assert_equal(make_fid(1).moments(IMAGES.astype(np.uint8)), at_once, 1e-4)
  assert_equal(make_fid(1, batch_size=37).moments(IMAGES), make_fid(8).moments(IMAGES), 1e-5)


def test_grey_images_are_those_of_three_equal_channels():
  grey = IMAGES[..., :1]
  assert_equal(make_fid().moments(grey), make_fid().moments(np.repeat(grey, 3, -1)))


def test_reference_moments_are_made_once(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "made" / "when needed"))
  tmp_path = tmp_path / "made" / "when needed"
  scored, passes = make_fid(), []
  made = scored.reference_moments(IMAGES, "noise/4x4")
  (path,) = (tmp_path / "dmmd_jax").iterdir()
  assert re.fullmatch(r"fid-noise_4x4-[0-9a-f]{16}\.npz", path.name)

  compute = scored.moments
  monkeypatch.setattr(scored, "moments", lambda x: passes.append(len(x)) or compute(x))
  assert_equal(scored.reference_moments(IMAGES, "noise/4x4"), made, 0)
  assert_equal(make_fid().reference_moments(IMAGES.astype(np.uint8), "noise/4x4"), made, 0)
  assert passes == []
  other = io.BytesIO()
  np.savez(other, mean=made.mean)
  for damaged in (path.read_bytes()[:-9], b"", b"no npz file", other.getvalue()):
    path.write_bytes(damaged)
    assert_equal(scored.reference_moments(IMAGES, "noise/4x4"), made, 0)
    assert_equal(Moments.load(path), made, 0)
  assert passes == [37] * 4


def test_other_weights_or_images_have_other_reference_moments(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  make_fid().reference_moments(IMAGES, "noise")
  make_fid(scale=2.0).reference_moments(IMAGES, "noise")
  make_fid().reference_moments(IMAGES[:-1], "noise")
  make_fid().reference_moments(255 - IMAGES, "noise")
  many = np.tile(IMAGES, (54, 1, 1, 1))
  make_fid().reference_moments(many, "noise")
  few = many.copy()
  few[1::16] = 0  # every sixteenth, wherever a reader of every so many would not look
  make_fid().reference_moments(few, "noise")
  assert len(list((tmp_path / "dmmd_jax").iterdir())) == 6  # and nothing half written


def test_missing_weights_are_an_error(tmp_path):
  sharding = parallel.batch_sharding(parallel.make_mesh())
  with pytest.raises(WeightsError, match=r"no Inception at .*missing.pth; set evaluate.inception"):
    fid.make_fid(str(tmp_path / "missing.pth"), sharding)


@pytest.mark.parametrize(
  ("devices", "batch_size", "expected"), [(8, 10, 16), (8, 16, 16), (1, 10, 10)]
)
def test_batches_are_of_one_size_that_devices_share(devices, batch_size, expected):
  shapes = []
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:devices]).reshape(devices, 1, 1), parallel.AXES)

  def features(params, x):
    shapes.append(x.shape)
    return x.reshape(len(x), -1) * params

  scored = fid.Fid(features, jnp.ones(()), parallel.batch_sharding(mesh), batch_size)
  white = np.full((20, 2, 2, 1), 255)
  moments = scored.moments(white)
  assert shapes == [(expected, 2, 2, 3)] and moments.count == 20
  # 1 is white: pixels are in [0, 1].
  np.testing.assert_array_equal(moments.mean, np.ones(12))


def test_one_image_and_the_size_of_batches_by_default(monkeypatch):
  monkeypatch.setattr(fid.inception, "load", lambda weights: (weights, jnp.zeros(3)))
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)
  made = fid.make_fid("weights", parallel.batch_sharding(mesh))
  plain = fid.Fid(lambda p, x: x.mean((1, 2)), jnp.zeros(3), parallel.batch_sharding(mesh))
  assert made._batch_size == plain._batch_size == 128
  assert plain.moments(IMAGES[:1]).count == 1


def test_images_that_tell_a_data_set_are_spread_over_it(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  images = np.random.default_rng(3).integers(0, 256, (129, 4, 4, 3))
  scored = make_fid(1, batch_size=129)
  scored.reference_moments(images, "noise")
  for changed in (0, 63, 126):  # of 129 images every third
    other = images.copy()
    other[changed] = 255 - other[changed]
    scored.reference_moments(other, "noise")
  assert len(list((tmp_path / "dmmd_jax").iterdir())) == 4


def test_moments_by_hand(tmp_path):
  moments = Moments.of(np.array([[0.0, 0.0], [2.0, 4.0], [4.0, 2.0]]))
  assert moments.count == 3
  np.testing.assert_allclose(moments.mean, [2, 2])
  np.testing.assert_allclose(moments.scatter, [[8, 4], [4, 8]])
  np.testing.assert_allclose(moments.covariance, [[4, 2], [2, 4]])
  moments.save(tmp_path / "m.npz")
  assert_equal(Moments.load(tmp_path / "m.npz"), moments, 0)
  assert [p.name for p in tmp_path.iterdir()] == ["m.npz"]
  # Equal means and covariances that commute: sum of (sqrt 6 - sqrt 24)^2 and (sqrt 2 - sqrt 8)^2.
  doubled = Moments(3, moments.mean + np.array([0, 3]), 4 * moments.scatter)
  np.testing.assert_allclose(distance(moments, doubled), 9 + 6 + 2, rtol=1e-10)
