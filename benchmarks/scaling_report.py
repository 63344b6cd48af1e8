"""Machines, how long a step takes on them, and the document that says so."""

from typing import NamedTuple

import jax

from dmmd_jax.phases import distill


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
