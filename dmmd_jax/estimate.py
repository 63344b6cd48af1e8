"""What a training phase takes, said before it has taken it: parameters, memory, time."""

import functools
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dmmd_jax import flops
from dmmd_jax.progress import duration, say
from dmmd_jax.speed import Speed

# The time of a step is the mean over at least so many steps, which took at least so many seconds.
_MEASURED_STEPS, _MEASURED_SECONDS = 3, 5.0
# Shorter runs are over before anybody has read how long they take.
_WORTH_SAYING = 60.0
_TOO_LONG_FOR_A_CPU = 24 * 3600.0

_CONTAINER_LIMIT = pathlib.Path("/sys/fs/cgroup/memory.max")


class Announced:
  """A jitted step function that prints what all of its steps take; it computes nothing else.

  At once: the number of parameters and the memory of the state. Before the step is compiled: the
  least time for all steps, by their matrix products and a measured speed. After a few steps: the
  memory and the time that they took. Of several processes the first prints. `name` is the section
  of the config that says how large a batch is.
  """

  def __init__(
    self,
    name: str,
    step_fn: Callable[..., tuple[Any, dict]],
    state: Any,
    steps: range,
    mesh: jax.sharding.Mesh,
    speed: Speed,
  ):
    """`state` is abstract, its leaves with shardings; `steps` are those that are left to run.

    `speed` is told the FLOPs of a step.
    """
    self._name, self._step_fn, self._steps, self._mesh = name, step_fn, steps, mesh
    self._speed = speed
    self._compiled = self._needed = self._since = None
    self._announced = not steps
    if steps:
      memory = _state_bytes(state) * _sharing(mesh)
      self._say(f"{count_parameters(state)} parameters, {_size(memory)} of state")
      self._warn_of_memory(memory)

  def __call__(self, state: Any, batch: Any, step: int) -> tuple[Any, dict]:
    if self._compiled is None:
      traced = self._step_fn.trace(state, batch, step)
      self._say_least_time(traced.jaxpr)
      self._compiled = traced.lower().compile()
      self._needed = _step_bytes(self._compiled) * _sharing(self._mesh)
      self._warn_of_memory(self._needed)
    if not self._announced:
      self._measure(step)
    return self._compiled(state, batch, step)

  def _measure(self, step: int) -> None:
    # The loop waits for the step before the last one: from the third call on the time between two
    # calls is that of a step.
    if step == self._steps.start + 2:
      self._since = time.perf_counter()
    done = step - self._steps.start - 2
    seconds = time.perf_counter() - (self._since or math.inf)
    if done < _MEASURED_STEPS or seconds < _MEASURED_SECONDS:
      return
    self._announced = True
    left = self._steps.stop - step
    memory = f"{_size(self._needed)} of memory, " if self._needed else ""
    each = seconds / done
    self._say(f"{memory}{each:.3g} s a step, about {duration(left * each)} for {left:,} steps")

  def _say_least_time(self, jaxpr: Any) -> None:
    try:
      self._speed.flops = total = flops.of_jaxpr(jaxpr).flops
    except ValueError:  # a loop of unknown length
      return
    on_cpu = self._mesh.devices.flat[0].platform == "cpu"
    devices = jax.process_count() if on_cpu else self._mesh.size
    least = len(self._steps) * total / (devices * matrix_speed())
    if least < _WORTH_SAYING:
      return
    self._say(
      f"{len(self._steps):,} steps, each with {total / 1e9:,.3g} GFLOP of matrix products: at least"
      f" {duration(least)} at the speed of these devices"
    )
    if on_cpu and least > _TOO_LONG_FOR_A_CPU:
      self._say(
        "warning: that is too long for a CPU; for a smaller network see the presets of the config,"
        " network.width, network.depth and the batch size"
      )

  def _warn_of_memory(self, needed: float) -> None:
    there = memory_of(self._mesh.local_devices[0])
    if there and needed > there:
      self._say(
        f"warning: it needs {_size(needed)} of memory, and there are {_size(there)}; lower"
        f" {self._name}.batch_size, raise {self._name}.microbatches, or set network.remat='full'"
      )

  def _say(self, text: str) -> None:
    say(f"{self._name}: {text}")


def count_parameters(state: Any) -> str:
  """The sizes of the models that are trained: the parts of a state that have `params`.

  With the name of each where there are several.
  """
  is_model = lambda part: hasattr(part, "params")
  parts = jax.tree_util.tree_leaves_with_path(state, is_leaf=is_model)
  sizes = {
    jax.tree_util.keystr(path, simple=True): sum(x.size for x in jax.tree.leaves(part.params))
    for path, part in parts
    if is_model(part)
  }
  if len(sizes) == 1:
    return f"{sum(sizes.values()):,}"
  return ", ".join(f"{name} {size:,}" for name, size in sizes.items())


@functools.cache
def matrix_speed() -> float:
  """FLOPs a second of one device, or of all cores of a CPU, in a large product of matrices."""
  on_cpu = jax.default_backend() == "cpu"
  size, dtype = (512, jnp.float32) if on_cpu else (8192, jnp.bfloat16)
  a = jnp.ones((size, size), dtype)
  product = jax.jit(jnp.matmul)
  times = []
  for _ in range(4):  # the first one compiles
    start = time.perf_counter()
    product(a, a).block_until_ready()
    times.append(time.perf_counter() - start)
  return 2.0 * size**3 / min(times)


def memory_of(device: jax.Device) -> int | None:
  """Bytes of memory of a device, for a CPU those that this process may use; None if not known."""
  if device.platform != "cpu":
    return (device.memory_stats() or {}).get("bytes_limit")
  found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
  text = _CONTAINER_LIMIT.read_text().strip() if _CONTAINER_LIMIT.is_file() else "max"
  return min(found, int(text)) if text.isdigit() else found


def _sharing(mesh: jax.sharding.Mesh) -> int:
  """How many devices of a mesh share one memory: all of a host's where it is the host's."""
  return len(mesh.local_devices) if mesh.local_devices[0].platform == "cpu" else 1


def _state_bytes(state: Any) -> int:
  """Bytes of an abstract state on one device."""
  return sum(
    math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state)
  )


def _step_bytes(compiled: jax.stages.Compiled) -> int:
  """Bytes that a step takes on one device with all that it is given; 0 where it is not known."""
  found = compiled.memory_analysis()
  if found is None:
    return 0
  in_and_out = found.argument_size_in_bytes + found.output_size_in_bytes
  return in_and_out - found.alias_size_in_bytes + found.temp_size_in_bytes


def _size(num_bytes: float) -> str:
  return f"{num_bytes / 2**30:.3g} GiB" if num_bytes >= 2**29 else f"{num_bytes / 2**20:.3g} MiB"
