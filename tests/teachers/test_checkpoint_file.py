"""Checkpoints of Lightning and PyTorch: what they hold, and what they may ask for in vain."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.teachers import checkpoint_file
from tests.teachers.made import FOLDERS, tensors

CHECKPOINT = FOLDERS["mdlm"].parent / "mdlm.ckpt"
NAME = "backbone.blocks.0.attn_qkv.weight"


class Evil:
  """What a pickle of it asks for when it is read."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def archive(path, contents):
  with zipfile.ZipFile(path, "w") as made:
    made.writestr("archive/data.pkl", pickle.dumps(contents))
  return path


def rewritten(path, change):
  """A copy of the golden checkpoint, of which `change(name, data)` gives each member, or None."""
  with zipfile.ZipFile(CHECKPOINT) as old, zipfile.ZipFile(path, "w") as new:
    for name in old.namelist():
      data = change(name, old.read(name))
      if data is not None:
        new.writestr(name, data)
  return path


def test_raw_and_averaged_weights_have_the_names_of_the_file():
  """The averages, which have none, were made half a unit larger."""
  theirs = tensors(FOLDERS["mdlm"])
  raw, averaged = (checkpoint_file.read(CHECKPOINT, which) for which in ("raw", "ema"))
  assert list(raw) == list(averaged) and raw.keys() == theirs.keys()
  for name, x in theirs.items():
    shape, dtype, read = raw[name]
    assert (shape, dtype) == (x.shape, x.dtype)
    np.testing.assert_array_equal(read(), x)
    shift = 0.0 if "inv_freq" in name else 0.5
    np.testing.assert_allclose(averaged[name][2](), x + shift, rtol=1e-6)


@pytest.mark.parametrize("place", ["state_dict", "hyper_parameters", "ema"])
def test_nothing_that_a_pickle_asks_for_is_done(tmp_path, place):
  contents = {"state_dict": {}, "ema": None} | {place: Evil(tmp_path / "made")}
  path = archive(tmp_path / "evil.ckpt", contents)
  if place == "hyper_parameters":
    assert checkpoint_file.read(path, "ema") == {}
  else:
    with pytest.raises(WeightsError, match="no checkpoint of PyTorch or Lightning"):
      checkpoint_file.read(path, "ema")
  assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
  ("contents", "message"),
  [
    ([1], "it holds a list, not a dict"),
    ({"state_dict": [1]}, "its state_dict is a list, not a dict"),
    ({"state_dict": {"x": 1}}, "x in it is a int, not a tensor"),
    ({"epoch": 1}, "epoch in it is a int, not a tensor"),
    ({"state_dict": {}, "ema": {"shadow_params": [1]}}, "'int' object has no attribute 'shape'"),
    ({"state_dict": {}, "ema": {"decay": 0.9}}, "shadow_params"),
  ],
)
def test_other_contents_are_one_line(tmp_path, contents, message):
  with pytest.raises(WeightsError, match=message):
    checkpoint_file.read(archive(tmp_path / "x.ckpt", contents), "ema")


def test_damaged_files_are_one_line(tmp_path):
  path = tmp_path / "x.ckpt"
  path.write_bytes(CHECKPOINT.read_bytes()[:-100])
  with pytest.raises(WeightsError, match="not a state dict of PyTorch"):
    checkpoint_file.read(path, "ema")
  rewritten(path, lambda name, data: None if name.endswith("data.pkl") else data)
  with pytest.raises(WeightsError, match="no checkpoint"):
    checkpoint_file.read(path, "ema")
  rewritten(path, lambda name, data: data[:-4] if "/data/" in name else data)
  with pytest.raises(WeightsError, match="get it again"):
    checkpoint_file.read(path, "raw")[NAME][2]()
  rewritten(path, lambda name, data: data)
  damaged = bytearray(path.read_bytes())
  place = damaged.index(np.float32(checkpoint_file.read(path, "raw")[NAME][2]()[0, 0]).tobytes())
  damaged[place] ^= 1
  path.write_bytes(damaged)
  with pytest.raises(WeightsError, match="Bad CRC-32"):
    checkpoint_file.read(path, "raw")[NAME][2]()
  with pytest.raises(WeightsError, match="No such file"):
    checkpoint_file.read(tmp_path / "absent.ckpt", "raw")


def test_an_average_of_other_parameters_is_refused(tmp_path):
  """One that lacks the last would give every name the tensor after its own."""
  source = checkpoint_file.read(CHECKPOINT, "raw")
  lazy = {
    name: checkpoint_file._Lazy(CHECKPOINT, "", "<f4", 0, 0, x[0]) for name, x in source.items()
  }
  average = [x for name, x in lazy.items() if "inv_freq" not in name]
  assert checkpoint_file._averaged(average, lazy).keys() == lazy.keys()
  for wrong in (average[:-1], average[::-1]):
    with pytest.raises(ValueError, match="give --weights=raw"):
      checkpoint_file._averaged(wrong, lazy)
