"""Whether a config's programs fit accelerators that are not here, and how long they should take.

    make plan                                            # the TPU compiler, in .venv-plan
    .venv-plan/bin/python -m benchmarks.scaling          # docs/scaling.md; an hour
    .venv-plan/bin/python -m benchmarks.scaling --config=configs/owt_dmmd.py --topology=v5e:4x4 \
        --program=distill --config.distill.updates=joint --against=HEAD~3

compiles the real training steps, samplers and Gradient Moment with the compiler of the accelerator,
and runs none of them. A line per program tells memory, expected time, and where it goes; `--json`
prints an object per line, `--record` writes it into docs/scaling.md. Times are those of the
compiler's cost model, not measured.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import scaling_report, topologies
from dmmd_jax.config_file import ConfigError
from dmmd_jax.versions import made_by

_STEPS = ("--program=teacher", "--program=distill")
_CIFAR, _OWT = "--config=configs/cifar_dmmd.py", "--config=configs/owt_dmmd.py"
_OWT_UNIFORM = "--config=configs/owt_dmmd_uniform.py"
_LLADA = "--config=configs/llada_dmmd.py"
_JOINT = (
  "--program=distill", "--config.distill.updates=joint", "--config.run.mesh=(-1,16,4)",
  "--config.distill.batch_size=64",
)  # fmt: skip
_ON_16 = ("--program=distill", "--config.run.mesh=(-1,4,4)", "--config.distill.batch_size=16")
_FACTORED = (
  "--config.distill.student_optimizer.moments=factored",
  "--config.distill.auxiliary_optimizer.moments=factored",
)
# A network of 1.3 billion parameters.
_LARGE = (
  "--config.network.width=2048", "--config.network.depth=24", "--config.network.heads=16",
  "--config.run.mesh=(-1,8,1)",
)  # fmt: skip
# What docs/scaling.md has; GPUs need jax[cuda12] in place of libtpu.
DOCUMENTED = (
  (_CIFAR, "--topology=v5e:4x4", *_STEPS),
  (_CIFAR, "--topology=v5e:4x4", "--program=distill", "--config.distill.updates=joint"),
  (_OWT, "--topology=v5e:4x4", *_STEPS),
  (_OWT_UNIFORM, "--topology=v5e:4x4", *_STEPS),
  (_OWT, "--topology=v5p:2x4x4", *_STEPS),
  (_OWT, "--topology=8xH100", *_STEPS),
  (_OWT, "--topology=v5p:2x4x4", *_STEPS, *_LARGE),
  # Three networks of 8 billion parameters.
  (_LLADA, "--topology=v5p:4x4x4", *_JOINT),
  (
    _LLADA,
    "--topology=v5p:4x4x4",
    *_JOINT,
    "--config.distill.student_optimizer.moments=bfloat16",
  ),
  (_LLADA, "--topology=v5p:4x4x4", *_JOINT, *_FACTORED),
  (_LLADA, "--topology=v5e:4x4", *_ON_16, *_FACTORED),
  (_LLADA, "--topology=v5e:4x4", *_ON_16, *_FACTORED, "--config.distill.updates=joint"),
  # One of them, and changes of low rank to it.
  (
    _LLADA,
    "--topology=v5e:4x4",
    "--program=distill",
    "--config.distill.lora_rank=64",
    "--config.run.mesh=(-1,4,4)",
    "--config.distill.batch_size=16",
    "--config.distill.updates=joint",
  ),
  (
    _LLADA,
    "--topology=v5p:2x4x4",
    "--program=distill",
    "--config.distill.lora_rank=64",
    "--config.run.mesh=(-1,8,4)",
    "--config.distill.batch_size=32",
    "--config.distill.updates=joint",
  ),
  # Minibatches of 256 texts.
  (
    _OWT,
    "--topology=v5e:4x4",
    "--program=Gradient Moment",
    "--config.evaluate.sample_batch_size=512",
  ),
)


def measure(
  path: str, topology: str, overrides: list[str], names: list[str], top: int = 0
) -> Iterator[dict]:
  """A row for each program of a config on a topology, with the `top` operations that cost most."""
  topologies.use()
  import jax

  from benchmarks import programs
  from dmmd_jax import config_file

  config, _ = config_file.load(path, config_file.split(overrides)[0])
  devices = topologies.devices(topology)
  mesh = _mesh(config.run.mesh, devices)
  there = programs.names(config)
  if unknown := [name for name in names if name not in there]:
    raise ConfigError(f"{path} has no program {unknown[0]!r}; it has {', '.join(there)}")
  for name in names or there:
    row = {"config": path, "topology": topology, "program": _label(name, config)}
    row |= {"overrides": overrides, "jax": jax.__version__, "commit": _commit()}
    yield row | _measured(programs.make(name, config, mesh), mesh, topologies.chip(topology), top)


def _commit() -> str | None:
  """Of the code; that rows recorded before have changed docs/ makes no difference."""
  commit = made_by("")["commit"]
  changed = ["git", "status", "--porcelain", "--", "benchmarks", "configs", "dmmd_jax"]
  if commit and not subprocess.run(changed, capture_output=True, check=True).stdout:
    return commit.removesuffix("-dirty")
  return commit


def _label(name: str, config) -> str:
  one_update = config.distill.method == "kernel_score" or name != "distill"
  return name if one_update else f"distill, {config.distill.updates}"


def _mesh(sizes, devices):
  import numpy as np
  from jax.experimental import mesh_utils
  from jax.sharding import Mesh

  from dmmd_jax import parallel

  shape = np.empty(len(devices)).reshape(sizes).shape
  return Mesh(mesh_utils.create_device_mesh(shape, devices), parallel.AXES)


def _measured(program, mesh, chip: topologies.Chip, top: int) -> dict[str, Any]:
  from benchmarks import costs, hlo, programs
  from dmmd_jax.flops import flops

  held = {part: programs.device_bytes(tree) for part, tree in program.parts.items()}
  function, arguments = program.share(mesh.size)
  num_flops = flops(function, *arguments)
  row = {"held_bytes": held, "flops": num_flops, "fits": False, "peak_bytes": None}
  began = time.monotonic()
  try:
    compiled = programs.compile(program, mesh)
  except Exception as error:  # jax has no public name for what a compiler raises
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    return row | {"why": _why(str(error)), "compile_seconds": time.monotonic() - began}
  row["compile_seconds"] = time.monotonic() - began
  text = compiled.as_text()
  operations = hlo.operations(text)
  peak = costs.memory(compiled)
  row |= {"fits": peak <= chip.memory, "peak_bytes": peak}
  row["largest_vocabulary_bytes"] = costs.largest(operations, program.vocabulary)
  if chip.clock:
    spent = costs.costs(operations, chip, mesh.size, _kernel_flops(program, mesh))
    row |= {
      "seconds": spent.seconds,
      "uncounted_seconds": spent.uncounted,
      "parts": spent.parts,
      "collectives": spent.sent,
      "peak_flops_share": num_flops / chip.flops / spent.seconds,
    }
    if top:
      row["operations"] = costs.costliest(operations, chip, mesh.size, top)
  return row


def _kernel_flops(program, mesh) -> float:
  """FLOPs inside of kernels, which the compiler does not see; those of one device."""
  from dmmd_jax import parallel
  from dmmd_jax.flops import work

  with parallel.use(mesh):
    return work(program.function, *program.arguments).kernels / mesh.size


def _why(error: str) -> str:
  """The sentence of a compiler's error that says how much memory is missing."""
  lines = [line.strip() for line in error.splitlines()]
  return next((line for line in lines if "exceed" in line or "Used" in line), lines[0])[:300]


@contextlib.contextmanager
def _checkout(commit: str) -> Iterator[pathlib.Path]:
  """The package and configs of a commit, in a folder of their own."""
  with tempfile.TemporaryDirectory() as folder:
    archive = subprocess.run(
      ["git", "archive", commit, "dmmd_jax", "configs"], capture_output=True, check=False
    )
    if archive.returncode:
      raise topologies.TopologyError(f"no commit {commit}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "x", "-C", folder], input=archive.stdout, check=True)
    # The instrument is this one: older commits have none.
    os.symlink(pathlib.Path(__file__).parent, pathlib.Path(folder, "benchmarks"))
    yield pathlib.Path(folder)


def rows_of(folder: pathlib.Path, arguments: list[str]) -> list[dict]:
  """The rows that this program prints, run by itself in `folder`."""
  child = subprocess.run(
    [sys.executable, "-m", "benchmarks.scaling", "--json", *arguments],
    cwd=folder,
    stdout=subprocess.PIPE,
    check=True,
  )
  return [json.loads(line) for line in child.stdout.splitlines()]


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--config", help="a config file; without one, docs/scaling.md is written")
  parser.add_argument("--topology", default="v5e:4x4", help="such as v5e:4x4, v5p:2x4x4, 8xH100")
  parser.add_argument("--program", action="append", default=[], help="of several; all, without")
  parser.add_argument("--top", type=int, default=0, help="show as many of the costliest operations")
  parser.add_argument("--json", action="store_true", help="print an object per line")
  parser.add_argument("--record", action="store_true", help="write the rows into docs/scaling.md")
  parser.add_argument("--against", metavar="COMMIT", help="compare with the code of a commit")
  arguments = sys.argv[1:]
  overrides = [x for x in arguments if x.startswith("--config.")]
  args = parser.parse_args([x for x in arguments if x not in overrides])
  if not args.config:
    for documented in DOCUMENTED:  # each in a process of its own, which frees its memory
      subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--record", *documented], check=True
      )
    return
  show = json.dumps if args.json else scaling_report.text
  try:
    rows = measure(args.config, args.topology, overrides, args.program, args.top)
    if not args.against:
      for row in rows:
        print(show(row), flush=True)
        if args.record:
          scaling_report.record(row)
      return
    same = [x for x in arguments if not x.startswith("--against") and x != args.against]
    with _checkout(args.against) as folder:
      for new, old in itertools.zip_longest(rows, rows_of(folder, same)):
        old["program"] += f", {args.against}"
        print(show(old), show(new), sep="\n", flush=True)
  except (topologies.TopologyError, ConfigError, OSError) as error:  # OSError: no such config
    parser.error(str(error))


if __name__ == "__main__":
  main()
