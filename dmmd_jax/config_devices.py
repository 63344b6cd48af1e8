"""Whether a config fits the devices that it is to run on, and its workdir. Pure Python."""

import math

from ml_collections import ConfigDict

from dmmd_jax.config_file import require


def check_devices(config: ConfigDict, num_devices: int | None = None) -> None:
  """Raises `ConfigError` where the mesh or a batch does not fit the number of devices.

  Without a number they are as few as the mesh allows.
  """
  sizes = config.run.mesh
  expected = "expected sizes of the axes data, fsdp, tensor"
  require(
    0 not in sizes and sizes.count(-1) <= 1,
    f"run.mesh is {sizes}; {expected}, each above 0, or -1 for the rest, once",
  )
  fixed = math.prod(size for size in sizes if size > 0)
  num_devices = num_devices or fixed
  require(
    num_devices % fixed == 0 if -1 in sizes else num_devices == fixed,
    f"run.mesh is {sizes} on {num_devices} devices; {expected} whose product is the number of"
    " devices, -1 standing for the rest of one axis",
  )
  data, fsdp, tensor = ((size if size > 0 else num_devices // fixed) for size in sizes)
  require(
    config.network.heads % tensor == 0,
    f"run.mesh splits heads {tensor} ways; expected a divisor of network.heads"
    f" ({config.network.heads})",
  )
  for phase in ("teacher", "reference", "distill"):
    if phase not in config.phases:
      continue
    size, parts = config[phase].batch_size, config[phase].microbatches
    require(
      size % (data * fsdp * parts) == 0,
      f"{phase}.batch_size is {size}; expected a multiple of the {data * fsdp} devices that share"
      f" a batch, times {phase}.microbatches ({parts})",
    )


def check_workdir(config: ConfigDict, workdir: str) -> None:
  """Raises `ConfigError` for what a run in a workdir of that name could not write there."""
  require(
    not config.run.profile or "://" not in workdir,
    f"run.profile is set, and {workdir} is in a bucket, where jax's profiler cannot write; profile"
    " with a local --workdir",
  )
