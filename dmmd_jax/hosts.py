"""Starts the processes of a run that has several: one a host, or one a device."""

import importlib.util
import os

import jax

# A process that says nothing for so long is lost, and the others end.
_HEARTBEAT_SECONDS = 60


def join() -> None:
  """Joins the processes of one run; call it before anything else asks jax for a device.

  By `JAX_COORDINATOR_ADDRESS`, `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`, as the tasks of a Slurm
  step, or as the hosts of a Cloud TPU slice. Does nothing where there is one process.
  """
  seconds = int(os.environ.get("DMMD_HEARTBEAT_SECONDS", _HEARTBEAT_SECONDS))
  options = {"heartbeat_timeout_seconds": seconds}
  if "JAX_NUM_PROCESSES" in os.environ:
    jax.distributed.initialize(
      os.environ["JAX_COORDINATOR_ADDRESS"],
      int(os.environ["JAX_NUM_PROCESSES"]),
      int(os.environ["JAX_PROCESS_ID"]),
      cluster_detection_method="deactivate",
      **options,
    )
  elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
    jax.distributed.initialize(cluster_detection_method="slurm", **options)
  elif importlib.util.find_spec("libtpu") and os.environ.get("JAX_PLATFORMS") != "cpu":
    try:
      jax.distributed.initialize(**options)
    except ValueError:  # libtpu is installed, but this is no TPU
      if "," in os.environ.get("TPU_WORKER_HOSTNAMES", ""):
        raise
