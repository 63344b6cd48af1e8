"""How fast training goes, and how near to what its devices could do."""

import time

import jax

# FLOP/s in bfloat16 of one device by its `device_kind`, as published: cloud.google.com/tpu/docs,
# nvidia.com/en-us/data-center.
PEAK_FLOPS = {
  "TPU v4": 275e12,
  "TPU v5 lite": 197e12,
  "TPU v5": 459e12,  # v5p
  "TPU v6 lite": 918e12,
  "NVIDIA A100-SXM4-40GB": 312e12,
  "NVIDIA A100-SXM4-80GB": 312e12,
  "NVIDIA H100 80GB HBM3": 989e12,
}


class Speed:
  """The clock of a training loop, which includes all that its steps wait for: data, checkpoints.

  `flops` of a step, over all devices, are set once they are known; until then, and on devices whose
  peak is not known, there is no share of the peak.
  """

  def __init__(self, batch_size: int, mesh: jax.sharding.Mesh):
    self.flops = 0.0
    self._batch_size = batch_size
    self._peak = mesh.size * PEAK_FLOPS.get(mesh.devices.flat[0].device_kind, 0.0)
    self._since = time.monotonic()

  def start(self) -> None:
    """Begins to measure: steps are compiled."""
    self._since = time.monotonic()

  def since_last(self, num_steps: int) -> dict[str, float]:
    """Of the steps since `start` or the last call: `step_seconds`, `examples_per_second`, and the
    `peak_flops_share` of their matrix products."""
    now = time.monotonic()
    seconds = max(now - self._since, 1e-9) / num_steps
    self._since = now
    found = {"step_seconds": seconds, "examples_per_second": self._batch_size / seconds}
    if self._peak and self.flops:
      found["peak_flops_share"] = self.flops / seconds / self._peak
    return found


def shown(speed: dict[str, float]) -> dict[str, str]:
  """What the terminal has of `Speed.since_last`, beside the steps a second that bars show."""
  texts = {"examples/s": f"{speed['examples_per_second']:.3g}"}
  if "peak_flops_share" in speed:
    texts["of the peak"] = f"{speed['peak_flops_share']:.0%}"
  return texts
