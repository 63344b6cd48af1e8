"""A profile has the steps that were asked for, also of a run that ends before the last of them."""

import glob
import gzip
import json

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from dmmd_jax import parallel, training
from dmmd_jax.training_log import NonFiniteError
from tests.test_training import RUN, job


def one_device():
  return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)


def traced_steps(folder):
  """The numbers of the steps in the one trace of a folder."""
  (path,) = glob.glob(f"{folder}/plugins/profile/*/perfetto_trace.json.gz")
  with gzip.open(path) as file:
    events = json.load(file)["traceEvents"]
  return sorted(int(e["args"]["step_num"]) for e in events if e.get("name") == "train")


def test_the_steps_of_a_profile_are_traced(tmp_path, capsys):
  config = ConfigDict(dict(RUN) | {"profile": (3, 5)})
  training.train(job(num_steps=8), tmp_path, config, one_device())
  assert traced_steps(tmp_path / "profile") == [3, 4, 5]
  assert f"profile of steps 3 to 5: {tmp_path}/profile" in capsys.readouterr().err


def test_a_run_that_goes_on_within_its_profile_traces_what_is_left(tmp_path):
  mesh = one_device()
  training.train(job(num_steps=4), tmp_path, RUN, mesh)
  config = ConfigDict(dict(RUN) | {"profile": (3, 6)})
  training.train(job(num_steps=8), tmp_path, config, mesh)
  assert traced_steps(tmp_path / "profile") == [5, 6]


def test_what_was_traced_before_an_error_is_kept(tmp_path):
  config = ConfigDict(dict(RUN) | {"profile": (3, 50)})
  with pytest.raises(NonFiniteError):
    training.train(job(num_steps=60, poison_at=6), tmp_path, config, one_device())
  assert traced_steps(tmp_path / "profile")[:3] == [3, 4, 5]
