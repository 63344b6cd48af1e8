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
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  scored, passes = make_fid(), []
  made = scored.reference_moments(IMAGES, "noise/4x4")
  (path,) = (tmp_path / "dmmd_jax").iterdir()
  assert path.name.startswith("fid-noise_4x4-") and path.suffix == ".npz"

  compute = scored.moments
  monkeypatch.setattr(scored, "moments", lambda x: passes.append(len(x)) or compute(x))
  assert_equal(scored.reference_moments(IMAGES, "noise/4x4"), made, 0)
  assert_equal(make_fid().reference_moments(IMAGES.astype(np.uint8), "noise/4x4"), made, 0)
  assert passes == []
  for damaged in (path.read_bytes()[:-9], b"", b"no npz file"):
    path.write_bytes(damaged)
    assert_equal(scored.reference_moments(IMAGES, "noise/4x4"), made, 0)
    assert_equal(Moments.load(path), made, 0)
  assert passes == [37] * 3


def test_other_weights_or_images_have_other_reference_moments(tmp_path, monkeypatch):
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
  make_fid().reference_moments(IMAGES, "noise")
  make_fid(scale=2.0).reference_moments(IMAGES, "noise")
  make_fid().reference_moments(IMAGES[:-1], "noise")
  make_fid().reference_moments(255 - IMAGES, "noise")
  assert len(list((tmp_path / "dmmd_jax").iterdir())) == 4  # and nothing half written


def test_missing_weights_are_an_error(tmp_path):
  sharding = parallel.batch_sharding(parallel.make_mesh())
  with pytest.raises(WeightsError, match=r"no Inception at .*missing.pth; set evaluate.inception"):
    fid.make_fid(str(tmp_path / "missing.pth"), sharding)
