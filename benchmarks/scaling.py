"""The full-scale run on machines that are not here: `python -m benchmarks.scaling`.

Compiles the real training steps and sampler for as many virtual devices as each machine has, runs
none of them, and writes memory, step time and the cost of the whole table to `docs/scaling.md`.
`--network` prints what the network itself takes.
"""

import argparse
import importlib
import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.counting import collectives
from benchmarks.scaling_report import MESHES, TARGETS, render
from dmmd_jax import parallel, training
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.flops import flops, num_bytes, work
from dmmd_jax.phases import build, distill, teacher


def _device_bytes(tree) -> int:
  """What one device holds of abstract arrays that have shardings."""
  sizes = ((x.sharding.shard_shape(x.shape), x.dtype) for x in jax.tree.leaves(tree))
  return sum(math.prod(shape) * dtype.itemsize for shape, dtype in sizes)


class Phase(NamedTuple):
  """A phase as the trainer sees it, and what its memory depends on.

  `loss(params, state, batch, key)` is that of the first of `trained(state)`.
  """

  init: Callable[[jax.Array], Any]
  step: Callable[[Any, Batch, jax.Array], Any]
  batch_size: int
  at_once: int  # examples of a batch whose activations are held at the same time
  trained: Callable[[Any], list[training.Trainable]]
  loss: Callable


def make_phases(config) -> dict[str, Phase]:
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  c, d = config.teacher, config.distill
  optimizer = training.make_optimizer(c.optimizer, c.num_steps)
  init, step = distill.make_step(config, dataset, denoiser)
  losses = distill.make_losses(
    config, dataset, denoiser, build.make_denoiser(config, dataset, student=True)
  )
  return {
    "teacher": Phase(
      lambda key: teacher.initial_state(denoiser.init(key), optimizer),
      teacher.make_step(config, denoiser, optimizer),
      c.batch_size,
      c.batch_size // c.microbatches,
      lambda state: [state.model],
      lambda params, state, batch, key: teacher.teacher_loss(
        params, denoiser.in_training(), c, batch, key
      ),
    ),
    "distill": Phase(
      lambda key: init(key, nn.unbox(denoiser.init(key))),
      step,
      d.batch_size * distill.updates_per_step(d),
      d.batch_size // d.microbatches,
      lambda state: [state.student, state.auxiliary],
      lambda params, state, batch, key: losses(
        params, state.auxiliary.params, state.teacher, batch, key
      )[0],
    ),
  }


def load_config(path: str):
  """The config of a file; made images stand for its data, of which only the shape matters."""
  config = importlib.import_module(".".join(pathlib.Path(path).with_suffix("").parts)).get_config()
  config.dataset.name = "stripes"
  return config


_KEY = jax.eval_shape(jax.random.key, 0)


def _batch(size: int, config, sharding=None) -> Batch:
  return Batch(jax.ShapeDtypeStruct((size, *config.dataset.shape), jnp.int32, sharding=sharding))


def abstract_state(init: Callable, mesh: jax.sharding.Mesh):
  """What `init(key)` makes, without making it, sharded as the trainer does."""
  boxed = jax.eval_shape(init, _KEY)
  return jax.tree.map(
    lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
    nn.unbox(boxed),
    parallel.state_shardings(mesh, boxed),
  )


def measure(config, devices: int) -> dict:
  """All that is counted for a machine, as JSON; to be called where jax has so many devices."""
  measured = {}
  for name, phase in make_phases(config).items():
    # On one device the step is that of its share of the batch.
    share = phase.batch_size // devices
    state = nn.unbox(jax.eval_shape(phase.init, _KEY))
    done = work(phase.step, state, _batch(share, config), _KEY)
    saved = saved_bytes(phase, config) * phase.at_once / devices
    for mesh in MESHES:
      found = _compiled_step(config, phase, parallel.make_mesh(MESHES[mesh]), devices)
      measured[f"{name}, {mesh}"] = {"flops": done.flops, "bytes": done.bytes, **found}
      measured[f"{name}, {mesh}"]["memory"]["activations"] = saved
  return {
    "phases": measured,
    "sampling": {name: _sampling(config, name, devices) for name in ("teacher", "student")},
    "sampler": _compiled_sampler(config, devices),
  }


def _compiled_step(config, phase: Phase, mesh: jax.sharding.Mesh, devices: int) -> dict:
  state = abstract_state(phase.init, mesh)
  batch = _batch(phase.batch_size, config, parallel.batch_sharding(mesh))
  shardings = jax.tree.map(lambda x: x.sharding, state)
  step = jax.jit(phase.step, donate_argnums=0, out_shardings=(shardings, parallel.replicated(mesh)))
  with parallel.use(mesh):
    compiled = step.lower(state, batch, _KEY).compile()
  trained = phase.trained(state)
  memory = {
    "parameters": _device_bytes([model.params for model in trained]),
    "Adam's moments": _device_bytes([model.opt_state for model in trained]),
    "average": _device_bytes(state.ema),
    "frozen teacher": _device_bytes(getattr(state, "teacher", ())),
    "gradients": _device_bytes(trained[0].params),
  }
  return {
    "memory": memory,
    "temporary": compiled.memory_analysis().temp_size_in_bytes,
    "collectives": collectives(compiled.as_text(), devices),
  }


def saved_bytes(phase: Phase, config) -> float:
  """What the forward pass of one example leaves for the backward pass.

  The slope over the batch size, since parameters are left, too.
  """
  state = nn.unbox(jax.eval_shape(phase.init, _KEY))

  def left(size: int) -> int:
    def backward(state, batch, key):
      of_params = lambda params: phase.loss(params, state, batch, key)
      return jax.vjp(of_params, phase.trained(state)[0].params)[1]

    return num_bytes(jax.eval_shape(backward, state, _batch(size, config), _KEY))

  return left(2) - left(1)


def _make_sampler(config, name: str, mesh: jax.sharding.Mesh):
  """The network of `teacher` or `student` and its sampler, as they are evaluated."""
  c = config.evaluate
  denoiser = build.make_denoiser(config, build.make_dataset(config), student=name == "student")
  if name == "student":
    return denoiser, build.make_sampler(denoiser, mesh)
  guided = denoiser.guided(c.teacher_guidance)
  return denoiser, build.make_sampler(
    guided, mesh, temperature=c.teacher_temperature, top_p=c.teacher_top_p
  )


def _share_of_block(config, devices: int) -> tuple[int, ...]:
  return (-(-config.evaluate.block_size // devices), *config.dataset.shape)


def _sampling(config, name: str, devices: int) -> dict:
  """What one evaluation for a block of samples takes on each device."""
  mesh = jax.sharding.Mesh(np.reshape(jax.devices()[:1], (1, 1, 1)), parallel.AXES)
  denoiser, sample = _make_sampler(config, name, mesh)
  share = _share_of_block(config, devices)
  params = nn.unbox(jax.eval_shape(denoiser.init, _KEY))
  return work(lambda params, key: sample(params, key, share, 1), params, _KEY)._asdict()


def _compiled_sampler(config, devices: int) -> dict:
  """The teacher's, with the parameters whole on each device; its size does not depend on NFE."""
  mesh = parallel.make_mesh(MESHES["data"])
  denoiser, sample = _make_sampler(config, "teacher", mesh)
  share, *shape = _share_of_block(config, devices)
  nfe = min(config.evaluate.teacher_nfe)
  run = jax.jit(
    lambda params, key: sample(params, key, (share * devices, *shape), nfe),
    out_shardings=parallel.replicated(mesh),
  )
  params = abstract_state(denoiser.init, mesh)
  with parallel.use(mesh):
    compiled = run.lower(params, _KEY).compile()
  return {
    "nfe": nfe,
    "parameters": _device_bytes(params),
    "temporary": compiled.memory_analysis().temp_size_in_bytes,
    "collectives": collectives(compiled.as_text(), devices),
  }


def measure_network(config) -> str:
  """Parameters, and what one image takes, as a text."""
  denoiser = build.make_denoiser(config, build.make_dataset(config))
  params = nn.unbox(jax.eval_shape(denoiser.init, _KEY))
  z, t = _batch(1, config).tokens, jax.ShapeDtypeStruct((1,), jnp.float32)
  lines = [
    f"{sum(x.size for x in jax.tree.leaves(params)) / 1e6:.1f} M parameters",
    f"{flops(denoiser.log_probs, params, z, t) / 1e9:.1f} GFLOP forward for an image",
  ]
  for remat in ("full", "none"):
    config.network.remat = remat
    phase = make_phases(config)["teacher"]
    state = nn.unbox(jax.eval_shape(phase.init, _KEY))

    def temporary(size: int, phase=phase, state=state) -> int:
      gradient = jax.jit(jax.grad(phase.loss))
      compiled = gradient.lower(state.model.params, state, _batch(size, config), _KEY).compile()
      return compiled.memory_analysis().temp_size_in_bytes

    step = flops(jax.grad(phase.loss), state.model.params, state, _batch(1, config), _KEY)
    lines.append(
      f"gradient for an image, remat {remat}: {step / 1e9:.1f} GFLOP,"
      f" {saved_bytes(phase, config) / 1e6:.0f} MB left by the forward pass,"
      f" {(temporary(16) - temporary(8)) / 8e6:.0f} MB of temporary memory as compiled for a CPU"
    )
  return "\n".join(lines)


def measure_elsewhere(path: str, name: str) -> dict:
  """`measure` in a process that has the devices of a machine, all on this CPU."""
  count = f"--xla_force_host_platform_device_count={TARGETS[name].count}"
  child = subprocess.run(
    [sys.executable, "-m", "benchmarks.scaling", f"--config={path}", f"--target={name}"],
    env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": count},
    stdout=subprocess.PIPE,
    check=True,
  )
  return json.loads(child.stdout)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--config", default="configs/cifar_dmmd.py")
  parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/scaling.md"))
  parser.add_argument("--network", action="store_true", help="print what the network takes")
  parser.add_argument("--target", choices=TARGETS, help=argparse.SUPPRESS)  # of a child process
  args = parser.parse_args()
  config = load_config(args.config)
  if args.network:
    print(measure_network(config))
  elif args.target:
    print(json.dumps(measure(config, TARGETS[args.target].count)))
  else:
    measured = {name: measure_elsewhere(args.config, name) for name in TARGETS}
    args.out.write_text(render(config, args.config, measured))


if __name__ == "__main__":
  main()
