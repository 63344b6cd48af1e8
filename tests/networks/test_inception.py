"""InceptionV3 against pytorch-fid, by `golden_inception.npz` (of `make_golden_inception.py`)."""

import hashlib
import os
import pickle
import zipfile

import jax
import numpy as np
import pytest

from dmmd_jax.networks import inception
from dmmd_jax.networks.weights import WeightsError, read_torch
from tests.networks import make_golden_inception as maker

GOLDEN = np.load(maker.PATH)


def random_state_dict() -> dict[str, np.ndarray]:
  module = inception.Inception()
  params = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 8, 8, 3)))["params"]
  shapes = {"fc.weight": (1008, 2048)}
  for name, layer in params.items():
    height, width, given, wanted = layer["kernel"].shape
    shapes[f"{name}.conv.weight"] = (wanted, given, height, width)
    for key in ("weight", "bias", "running_mean", "running_var"):
      shapes[f"{name}.bn.{key}"] = (wanted,)
  return {name: maker.random_tensor(name, shape) for name, shape in shapes.items()}


def test_features_are_those_of_pytorch_fid(tmp_path, monkeypatch):
  monkeypatch.setattr(inception, "read_torch", lambda path: random_state_dict())
  path = tmp_path / "weights.pth"
  path.touch()
  module, params = inception.load(path)
  features = jax.jit(module.apply)({"params": params}, maker.images(maker.IMAGES))
  assert features.shape == (2, 2048)
  scale = GOLDEN["features"].std()
  np.testing.assert_allclose(features / scale, GOLDEN["features"] / scale, atol=1e-3)


def test_images_are_made_smaller_as_pytorch_does():
  large = maker.images(maker.LARGE)
  resized = inception.resize(large)[:, :: maker.STEP, :: maker.STEP]
  np.testing.assert_allclose(resized, GOLDEN["resized"], atol=1e-5)


def test_missing_or_foreign_weights_are_one_clear_line(tmp_path, monkeypatch):
  path = tmp_path / "weights.pth"
  with pytest.raises(WeightsError, match=r"no Inception at .*; set evaluate.inception to pt_incep"):
    inception.load(path)
  path.write_bytes(GOLDEN["zip_file"].tobytes())
  with pytest.raises(WeightsError, match=r"does not hold the Inception of FID: no fc.weight"):
    inception.load(path)
  weights = {"fc.weight": np.zeros((1008, 2048))}
  monkeypatch.setattr(inception, "read_torch", lambda path: weights)
  with pytest.raises(WeightsError, match=r"no 'Conv2d_1a_3x3.conv.weight'"):
    inception.load(path)
  weights |= {name: x[:1] for name, x in random_state_dict().items() if name[0] != "f"}
  with pytest.raises(WeightsError, match="tensors of other shapes"):
    inception.load(path)


@pytest.mark.parametrize("kind", ["zip_file", "legacy_file"])
def test_both_formats_of_torch_are_read(kind, tmp_path):
  path = tmp_path / "weights.pth"
  path.write_bytes(GOLDEN[kind].tobytes())
  tensors, expected = read_torch(path), maker.small_state_dict()
  assert list(tensors) == list(expected)
  for name, tensor in tensors.items():
    np.testing.assert_array_equal(tensor, expected[name], strict=True)


def test_weights_are_those_that_the_name_announces(tmp_path):
  content = GOLDEN["zip_file"].tobytes()
  path = tmp_path / f"weights-{hashlib.sha256(content).hexdigest()[:8]}.pth"
  path.write_bytes(content)
  assert list(read_torch(path)) == list(maker.small_state_dict())
  path.write_bytes(content + b"\0")
  with pytest.raises(WeightsError, match=f"{path.name} is damaged, its SHA-256 begins with"):
    read_torch(path)


def test_weights_that_cannot_be_opened_or_are_no_numbers_are_one_clear_line(tmp_path, monkeypatch):
  with pytest.raises(WeightsError, match=r"cannot read .*nowhere.pth: No such file"):
    read_torch(tmp_path / "nowhere.pth")
  with pytest.raises(WeightsError, match=r"cannot read .*: Is a directory"):
    read_torch(tmp_path)
  weights = {"fc.weight": np.full((1008, 2048), np.nan, np.float16)}
  monkeypatch.setattr(inception, "read_torch", lambda path: weights)
  (tmp_path / "weights.pth").touch()
  with pytest.raises(WeightsError, match="has NaN or infinity in fc"):
    inception.load(tmp_path / "weights.pth")


class Evil:
  def __init__(self, marker):
    self.marker = marker

  def __reduce__(self):
    return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_that_would_run_something_is_refused(is_zip, tmp_path):
  path, marker = tmp_path / "weights.pth", tmp_path / "marker"
  evil = pickle.dumps({"weight": Evil(marker)})
  if is_zip:
    with zipfile.ZipFile(path, "w") as archive:
      archive.writestr("archive/data.pkl", evil)
  else:
    path.write_bytes(evil)
  with pytest.raises(WeightsError, match=r"not a state dict of PyTorch: it asks for \w+\.mkdir"):
    read_torch(path)
  assert not marker.exists()


@pytest.mark.parametrize(
  "content",
  [
    b"",
    b"version https://git-lfs.github.com/spec/v1",
    b"PK\x03\x04 and no archive",
    pickle.dumps([1, 2, 3]),
    GOLDEN["legacy_file"].tobytes()[:-1],
    GOLDEN["zip_file"].tobytes()[:-1],
    # A tensor of 6 numbers said to have 99 rows would reach beyond them.
    GOLDEN["legacy_file"].tobytes().replace(b"K\x03K\x02\x86", b"K\x63K\x02\x86"),
  ],
)
def test_other_files_are_one_clear_line(content, tmp_path):
  path = tmp_path / "weights.pth"
  path.write_bytes(content)
  with pytest.raises(WeightsError, match=r"weights.pth is not a state dict of PyTorch: \S"):
    read_torch(path)
