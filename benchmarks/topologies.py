"""Accelerators that are described, and absent: what they can do, and devices to compile for.

The compilers of TPUs and GPUs come with `libtpu` and with jax's CUDA plugin, and need no device:
`make plan` installs the first in an environment of its own.
"""

import os
import re
from typing import NamedTuple

# Before jax is imported: nothing may look for a TPU here, or for the server that knows of one.
ENVIRONMENT = {
  "JAX_PLATFORMS": "cpu",
  "TPU_SKIP_MDS_QUERY": "1",
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # of no meaning, but libtpu complains without
  "TPU_STDERR_LOG_LEVEL": "3",
  "TPU_MIN_LOG_LEVEL": "3",
}


class Chip(NamedTuple):
  """What one device can do: FLOP/s in bfloat16, cycles a second, bytes, bytes a second.

  `link` is what it can send to others while it receives as much. `clock` is 0 where the compiler
  says no cycles.
  """

  flops: float
  clock: float
  memory: float
  bandwidth: float
  link: float


# As published: cloud.google.com/tpu/docs/v5e, v5p and v6e, nvidia.com/en-us/data-center/h100. Of
# the published rates between chips TPUs count with half: a chip at a corner of a slice without
# wrap-around links has half of the links. Memory is what a program can have of it, as the compilers
# say. Clocks are those at which the matrix units reach the peak.
CHIPS = {
  "v5e": Chip(197e12, 1.5e9, 15.75 * 2**30, 819e9, 100e9),
  "v5p": Chip(459e12, 1.75e9, 95.74 * 2**30, 2765e9, 300e9),
  "v6e": Chip(918e12, 1.75e9, 31.25 * 2**30, 1640e9, 224e9),
  "H100": Chip(989e12, 0.0, 80e9, 3350e9, 450e9),
}

_TPU = re.compile(r"(v5e|v5p|v6e):\d+x\d+(x\d+)?")
_GPU = re.compile(r"(\d+)xH100")

# What XLA has to know of an H100 (SXM, 80 GB), as jax would ask the device.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class TopologyError(Exception):
  """A topology that is unknown, or whose compiler is not installed."""


def chip(topology: str) -> Chip:
  """Raises `TopologyError` for a name of another form than `v5e:4x4` or `8xH100`."""
  if _GPU.fullmatch(topology):
    return CHIPS["H100"]
  found = _TPU.fullmatch(topology)
  if not found:
    raise TopologyError(f"no topology {topology!r}; expected such as v5e:4x4, v5p:2x4x4, 8xH100")
  return CHIPS[found[1]]


def devices(topology: str) -> list:
  """Devices to compile for; `TopologyError` where their compiler is missing."""
  chip(topology)
  from jax.experimental import topologies

  gpus = _GPU.fullmatch(topology)
  try:
    if gpus:
      described = topologies.get_topology_desc(
        "H100", platform="cuda", target_config=_H100, topology=f"1x1x{gpus[1]}"
      )
    else:
      described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  except Exception as error:  # each plugin has its own
    needed = "pip install 'jax[cuda12]'" if gpus else "make plan, and .venv-plan/bin/python"
    raise TopologyError(
      f"cannot compile for {topology} ({_first_line(error)}); {needed}"
    ) from error
  return list(described.devices)


def use() -> None:
  """Sets `ENVIRONMENT`; to be called before jax is imported."""
  os.environ.update(ENVIRONMENT)


def _first_line(error: Exception) -> str:
  return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
