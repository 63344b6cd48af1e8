"""Speed is that of the clock, and its share of the peak that of the devices of the mesh."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.topologies import CHIPS
from dmmd_jax import speed
from dmmd_jax.speed import Speed, shown


def mesh_of(kind, size):
  return SimpleNamespace(size=size, devices=np.array([SimpleNamespace(device_kind=kind)] * size))


@pytest.fixture
def clock(monkeypatch):
  times = iter((0.0, 10.0, 14.0, 24.0))
  monkeypatch.setattr(speed.time, "monotonic", lambda: next(times))


def test_the_peak_is_that_of_all_devices(clock):
  found = Speed(64, mesh_of("TPU v5 lite", 4))
  found.flops = 2 * 197e12
  found.start()
  first = found.since_last(8)  # half a second each, without what was before the start
  assert first == {
    "step_seconds": 0.5, "examples_per_second": 128.0, "peak_flops_share": 2 / 4 / 0.5
  }  # fmt: skip
  assert found.since_last(5)["step_seconds"] == 2.0
  assert shown(first) == {"examples/s": "128", "of the peak": "100%"}


@pytest.mark.parametrize(
  ("name", "kind"),
  [
    ("v5e", "TPU v5 lite"),
    ("v5p", "TPU v5"),
    ("v6e", "TPU v6 lite"),
    ("H100", "NVIDIA H100 80GB HBM3"),
  ],
)
def test_peaks_are_those_that_plans_count_with(name, kind):
  assert speed.PEAK_FLOPS[kind] == CHIPS[name].flops


@pytest.mark.parametrize(("kind", "flops"), [("cpu", 1e12), ("TPU v5 lite", 0.0)])
def test_there_is_no_share_where_peak_or_flops_are_not_known(clock, kind, flops):
  found = Speed(64, mesh_of(kind, 1))
  found.flops = flops
  found.start()
  found = found.since_last(1)
  assert found.keys() == {"step_seconds", "examples_per_second"}
  assert shown(found) == {"examples/s": "16"}
