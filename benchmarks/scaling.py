"""The full-scale run on machines that are not here: `python -m benchmarks.scaling`.

Compiles the real training steps and sampler for as many virtual devices as each machine has, runs
none of them, and writes memory, step time and the cost of the whole table to `docs/scaling.md`.
`--network` prints what the network itself takes.
"""

import argparse
import collections
import importlib
import json
import math
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from dmmd_jax import parallel, training
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.phases import build, distill, teacher


class Target(NamedTuple):
  """A machine: its devices, and per device FLOP/s in bfloat16, bytes, and bytes a second.

  `link` is what a device can send to others while it receives as much.
  """

  text: str
  device: str
  count: int
  flops: float
  memory: float
  bandwidth: float
  link: float


# As published: cloud.google.com/tpu/docs/v5e and v5p, nvidia.com/en-us/data-center/h100. Of the
# published rates between chips, 200 and 600 GB/s each way, TPUs count with half: a chip at a corner
# of a slice without wrap-around links has half of the links.
TARGETS = {
  "v5e-16": Target("16 chips, 4x4", "chip", 16, 197e12, 16e9, 819e9, 100e9),
  "v5p-64": Target(
    "32 chips of two TensorCores, 2x4x4, each chip one device",
    "chip",
    32,
    459e12,
    95e9,
    2765e9,
    300e9,
  ),
  "8xH100": Target("8 GPUs, SXM, NVLink 4", "GPU", 8, 989e12, 80e9, 3350e9, 450e9),
}

# Values of run.mesh. In each of them one axis has all devices, which take part in every collective.
MESHES = {"data": (-1, 1, 1), "fsdp": (1, -1, 1)}

# Part of the peak that matrix products and convolutions are taken to reach.
UTILISATION = 0.5


# Parts of a step's memory that are not held between steps.
_TEMPORARY = ("gradients", "activations")


class Work(NamedTuple):
  """FLOPs of matrix products and convolutions, and bytes of all that they read and write."""

  flops: float = 0.0
  bytes: float = 0.0

  def plus(self, other: "Work", times: int = 1) -> "Work":
    return Work(self.flops + times * other.flops, self.bytes + times * other.bytes)


def flops(function: Callable, *abstract_args) -> float:
  """FLOPs of the matrix products and convolutions of `function(*abstract_args)`.

  XLA's own analysis counts the body of a loop once; this counts it as often as it runs. What is
  computed again under remat counts again, what nothing depends on does not.
  """
  return work(function, *abstract_args).flops


def work(function: Callable, *abstract_args) -> Work:
  closed = jax.make_jaxpr(function)(*abstract_args)
  jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
  return _work(jaxpr)


def _work(jaxpr: core.Jaxpr) -> Work:
  total = Work()
  for eqn in jaxpr.eqns:
    name, params = eqn.primitive.name, eqn.params
    if name in ("dot_general", "conv_general_dilated"):
      arrays = [x.aval for x in (*eqn.invars, *eqn.outvars)]
      total = total.plus(
        Work(2.0 * arrays[-1].size * _summed(name, params, *arrays[:2]), _num_bytes(arrays))
      )
      continue
    inner = [_work(sub) for sub in core.jaxprs_in_params(params)]
    if name == "while" and any(w.flops for w in inner):
      raise ValueError("a while loop with matrix products: how often it runs is not known")
    if name == "cond":
      inner = [max(inner)]
    for one in inner:
      total = total.plus(one, params["length"] if name == "scan" else 1)
  return total


def _summed(name: str, params: dict, left, right) -> float:
  """How many products are summed for one number of the result."""
  if name == "dot_general":
    (axes, _), _ = params["dimension_numbers"]
    return math.prod(left.shape[axis] for axis in axes)
  # Zeros put between the numbers of a strided convolution's gradient are not multiplied.
  features = right.shape[params["dimension_numbers"].rhs_spec[0]]
  return right.size / features / math.prod(params["lhs_dilation"])


class Collectives(NamedTuple):
  """How often one kind runs, and the bytes that each device sends."""

  count: int
  sent: float


_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_CALLED = re.compile(r"(?:body|condition|calls|to_apply)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" = (.+?) ({_KINDS})\(")
_ARRAY = re.compile(r"[a-z]+(\d*)[a-z\d]*\[([\d,]*)\]")


def collectives(hlo: str, devices: int) -> dict[str, Collectives]:
  """The collectives of a compiled program, by kind; those in a loop as often as it runs."""
  lines = collections.defaultdict(list)
  name = entry = None
  for line in hlo.splitlines():
    if header := _COMPUTATION.match(line):
      name = header[2]
      entry = name if header[1] else entry
    lines[name].append(line)
  total = collections.defaultdict(lambda: Collectives(0, 0.0))
  runs = collections.Counter({entry: 1})
  # A computation stands above those that call it.
  for name in reversed(lines):
    for line in lines[name][1:]:
      called, times = _CALLED.findall(line), 1
      if " while(" in line:
        trips = _TRIPS.search(line)
        times = int(trips[1]) if trips else math.nan
      for branches in _BRANCHES.findall(line):
        called += branches.replace("%", "").split(", ")
      for other in called:
        runs[other] += runs[name] * times
      if found := _COLLECTIVE.search(line):
        shape, kind = found.groups()
        count, sent = total[kind]
        sent += runs[name] * sent_bytes(kind, _shape_bytes(shape), devices)
        total[kind] = Collectives(count + runs[name], sent)
  if any(math.isnan(count) for count, _ in total.values()):
    raise ValueError("a collective in a loop of unknown length")
  return dict(total)


def _shape_bytes(shape: str) -> int:
  """Bytes of an HLO shape such as `f32[2,3]{1,0}`, or of a tuple of them."""
  bits = (
    int(width or 8) * math.prod(int(n) for n in sizes.split(",") if n)
    for width, sizes in _ARRAY.findall(shape)
  )
  return sum(bits) // 8


def sent_bytes(kind: str, result: float, devices: int) -> float:
  """Bytes that each device sends for a collective with a result of so many, around a ring."""
  others = devices - 1
  return (
    result
    * {
      "all-reduce": 2 * others / devices,
      "all-gather": others / devices,
      "reduce-scatter": others,  # a result is one part of what is summed
      "all-to-all": others / devices,
      "collective-permute": 1,
    }[kind]
  )


def _num_bytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


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

    return _num_bytes(jax.eval_shape(backward, state, _batch(size, config), _KEY))

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


class Times(NamedTuple):
  """Seconds that a device needs at least: to multiply, to read and write memory, to send."""

  matrix: float
  memory: float
  links: float

  @property
  def overlapped(self) -> float:
    return max(self)

  @property
  def in_turn(self) -> float:
    """With nothing computed while collectives run."""
    return max(self.matrix, self.memory) + self.links


def times(target: Target, flops: float, bytes: float, sent: float = 0.0) -> Times:
  return Times(flops / (UTILISATION * target.flops), bytes / target.bandwidth, sent / target.link)


def times_of(target: Target, phase: dict) -> Times:
  """Of a step, in which the optimiser reads and writes state and gradients once."""
  memory = phase["memory"]
  state = 2 * memory["parameters"] + memory["Adam's moments"] + memory["average"]
  sent = sum(sent for _, sent in phase["collectives"].values())
  return times(target, phase["flops"], phase["bytes"] + 2 * state, sent)


def at_most(phase: dict) -> float:
  """Bytes that the program takes as compiled for a CPU; its gradients are temporary."""
  held = sum(num for part, num in phase["memory"].items() if part not in _TEMPORARY)
  return held + phase["temporary"]


def best_mesh(target: Target, phases: dict, name: str) -> str:
  """The fastest, without overlap, of those in which the phase fits."""
  fit = [mesh for mesh in MESHES if at_most(phases[f"{name}, {mesh}"]) < target.memory]
  if not fit:
    raise ValueError(f"{name} does not fit into {target.text}: set {name}.microbatches")
  return min(fit, key=lambda mesh: times_of(target, phases[f"{name}, {mesh}"]).in_turn)


def render(config, path: str, measured: dict[str, dict]) -> str:
  """The document."""
  facts = {
    "config": path,
    "jax": jax.__version__,
    "teacher": config.teacher,
    "distill": config.distill,
    "updates": distill.updates_per_step(config.distill),
    "evaluate": config.evaluate,
    "nfe": min(config.evaluate.teacher_nfe),
    "utilisation": f"{UTILISATION:.0%}",
    "images": config.evaluate.num_blocks * config.evaluate.block_size,
    "teacher_nfe": sum(config.evaluate.teacher_nfe),
    "student_nfe": sum(config.evaluate.student_nfe),
    "targets": "\n".join(_of_target(TARGETS[name], name, measured[name]) for name in measured),
    "cost": _table(
      ["hours", "teacher", "distillation", "sampling", "sum", "device-hours", "of both halves"],
      [_cost(config, TARGETS[name], name, measured[name]) for name in measured],
    ),
  }
  return _DOCUMENT.format(**facts)


def _of_target(target: Target, name: str, measured: dict) -> str:
  phases, sampler = measured["phases"], measured["sampler"]
  found = list(phases.values())
  spent = [times_of(target, phase) for phase in found]
  giga = lambda numbers: [f"{x / 1e9:.2f}" if x else "" for x in numbers]
  milli = lambda numbers: [f"{1e3 * x:.1f}" for x in numbers]

  def sent(phase: dict, kind: str) -> str:
    count, num_bytes = phase["collectives"].get(kind, (0, 0))
    return f"{num_bytes / 1e9:.2f} in {count}" if count else ""

  rows = [
    *([f"{part}, GB", *giga(x["memory"][part] for x in found)] for part in found[0]["memory"]),
    ["**sum, GB**", *giga(sum(x["memory"].values()) for x in found)],
    ["**at most, GB**", *giga(at_most(x) for x in found)],
    ["TFLOP", *(f"{x['flops'] / 1e12:.2f}" for x in found)],
    ["memory traffic, GB", *giga(x.memory * target.bandwidth for x in spent)],
    *(
      [f"{kind}, GB sent in how many", *(sent(x, kind) for x in found)]
      for kind in sorted({kind for x in found for kind in x["collectives"]})
    ),
    ["FLOPs, ms", *milli(x.matrix for x in spent)],
    ["memory traffic, ms", *milli(x.memory for x in spent)],
    ["collectives, ms", *milli(x.links for x in spent)],
    ["**step if they overlap, ms**", *milli(x.overlapped for x in spent)],
    ["**step if collectives do not, ms**", *milli(x.in_turn for x in spent)],
  ]
  chosen = {phase: best_mesh(target, phases, phase) for phase in ("teacher", "distill")}
  of_sampler = sampler["parameters"] + sampler["temporary"]
  return f"""## {name}: {target.text}

{target.flops / 1e12:.0f} TFLOP/s, {target.memory / 1e9:.0f} GB of memory at \
{target.bandwidth / 1e9:.0f} GB/s, {target.link / 1e9:.0f} GB/s to the others. \
Per {target.device} and step:

{_table(["", *phases], rows)}

The fastest mesh in which it fits: `{chosen["teacher"]}` for the teacher, `{chosen["distill"]}` \
for distillation. The sampler takes at most {of_sampler / 1e9:.2f} GB.
"""


def _cost(config, target: Target, name: str, measured: dict) -> list[str]:
  """A row of the table of costs: the least and the most hours of each part."""
  phases = measured["phases"]
  hours = []
  for phase in ("teacher", "distill"):
    spent = times_of(target, phases[f"{phase}, {best_mesh(target, phases, phase)}"])
    hours.append([config[phase].num_steps * x / 3600 for x in (spent.overlapped, spent.in_turn)])
  sampling = sum(
    config.evaluate.num_blocks * sum(nfes) * max(times(target, **measured["sampling"][model]))
    for model, nfes in (
      ("teacher", config.evaluate.teacher_nfe),
      ("student", config.evaluate.student_nfe),
    )
  )
  hours.append([sampling / 3600] * 2)
  total = [sum(bound) for bound in zip(*hours, strict=True)]
  numbers = [
    *hours,
    total,
    [target.count * x for x in total],
    [2 * target.count * x for x in total],
  ]
  return [name, *(_span(*bounds) for bounds in numbers)]


def _span(low: float, high: float) -> str:
  digits = 0 if high >= 100 else 1
  texts = [f"{x:,.{digits}f}" for x in (low, high)]
  return texts[0] if texts[0] == texts[1] else " to ".join(texts)


def _table(columns: list[str], rows: list[list[str]]) -> str:
  lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


_DOCUMENT = """# Past this machine

What `{config}` takes on machines that we do not have: counts and estimates, nothing measured.
Written by `python -m benchmarks.scaling` with jax {jax}; not to be edited by hand.

**Compiled**, and not run, for as many virtual devices as each machine has: a teacher step (batch
{teacher.batch_size}), a distillation step ({updates} updates of batch {distill.batch_size}, the
first of the student, the rest of the auxiliary model), and the teacher's sampler (blocks of
{evaluate.block_size}, {nfe} NFE). `data` is `run.mesh=(-1,1,1)`, all state on each device; `fsdp`
is `(1,-1,1)`, state split over all of them.

**Memory.** Parameters, moments, average and the frozen teacher come from the shardings and are
exact; gradients are one set of parameters; activations are what the forward pass leaves for the
backward pass, without what one layer needs in between. *At most* is the state and all temporary
memory of the program as compiled for a CPU, whose compiler fuses less and widens bfloat16.

**FLOPs** are those of matrix products and convolutions, at a device's share of the batch, with what
remat computes again. They are counted in the jaxpr, as XLA's cost analysis counts the body of a
loop once. Elementwise work and the optimiser's are left out. **Memory traffic** is the operands and
results of the same products, as if all else were fused with them, and state and gradients once each
way.

**Collectives** are those of the compiled program, in a loop as often as it runs, with what a device
sends around a ring: 2(n-1)/n of the result of an all-reduce, (n-1)/n of an all-gather's. They are
float32, as for a CPU; TPUs and GPUs may send bfloat16, and scatter what the CPU reduces everywhere
in `fsdp`: half the bytes, each.

`fsdp` gathers the parameters anew for every pass over them: it is for networks whose state does not
fit otherwise.

{targets}
## The whole table

{teacher.num_steps:,} teacher steps, {distill.num_steps:,} distillation steps, and {images:,}
samples at each NFE, of the teacher ({teacher_nfe:,} in all) and of the student ({student_nfe:,}),
with the fastest mesh: hours if collectives overlap, and if they do not.

{cost}

The other half of the table, `configs/cifar_dmmd_uniform.py`, has the same network, batches, steps
and NFE, and costs the same. No prices: those that we found for one device differ severalfold.

## Assumed

- {utilisation} of the peak FLOPs are reached, and all of the bandwidths. A real step is slower by
  its elementwise work: softmax over 256 values of 3,072 tokens an image, noise, drawing samples.
- Peaks, bfloat16 without sparsity, are those of [v5e](https://cloud.google.com/tpu/docs/v5e),
  [v5p](https://cloud.google.com/tpu/docs/v5p) and
  [H100](https://www.nvidia.com/en-us/data-center/h100). TPUs send at half the published rate: a
  chip at the corner of a slice without wrap-around links has half of the links.
- Not counted: reading data, checkpoints, compilation, FID, preemptions, the latency of collectives.

## Again

    python -m benchmarks.scaling              # this file; some minutes on two cores
    python -m benchmarks.scaling --network    # what the network takes for an image
"""


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
