"""Runs the phases of a config in a workdir, each until it is complete, and records them."""

import importlib
import sys
import time
from typing import TextIO

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from dmmd_jax import checkpoints, nested, parallel, records
from dmmd_jax.phases import build
from dmmd_jax.progress import duration
from dmmd_jax.summary import summary


def run(config, workdir: epath.Path, unfinished: bool = False) -> None:
  """Runs `config.phases` in order; what is complete in `workdir` is not run again.

  `unfinished` lets a phase read a model whose own phase has not finished. Raises what data sets,
  `records` and phases raise; nothing is written before the data could be had.
  """
  mesh = parallel.make_mesh(tuple(config.run.mesh))
  _tell(f"{_devices(mesh)}, workdir {workdir}")
  dataset = build.make_dataset(config)
  while True:
    try:
      for phase in config.phases:
        run_phase(config, phase, dataset, workdir, mesh, unfinished)
      if jax.process_index() == 0:
        print(summary(config, workdir), flush=True)
      return
    except checkpoints.DamagedModelError as error:
      if not _made_here(config, workdir, error):
        raise
      _tell(f"dmmd_jax: {error}", sys.stderr)
      checkpoints.set_aside(error.directory, error.step)


def run_phase(
  config,
  phase: str,
  dataset,
  workdir: epath.Path,
  mesh: jax.sharding.Mesh,
  unfinished: bool = False,
) -> None:
  """Runs one phase unless it is complete.

  Raises `DamagedModelError` where it has finished, but a file of its last checkpoint is damaged.
  """
  sources = records.find_sources(config, workdir, phase, unfinished)
  if phase == "evaluate":
    _tell_of_student(config, sources, workdir)
  sources["data"] = records.Source(None, {"fingerprint": dataset.fingerprint})
  folder, now = workdir / phase, records.depends(config, phase, sources)
  records.require_unchanged(folder, now)
  if _agreed(records.is_complete(folder, now)):
    _tell(f"{phase}: complete in {folder}{records.code_since(folder)}")
    return
  damage = records.find_damaged_file(folder)
  if _agreed(bool(damage)):
    step = config[phase].num_steps
    raise checkpoints.DamagedModelError(folder / "checkpoints", step, damage)
  start = time.monotonic()
  is_first = jax.process_index() == 0
  if is_first:
    records.begin(folder, now)
  module = importlib.import_module(f"dmmd_jax.phases.{phase}")
  result = module.run(records.own_config(config, phase), dataset, workdir, mesh, sources)
  if is_first:
    records.finish(folder, now, result, parallel.describe(mesh))
  _agreed(True)  # the next phase reads the record
  _tell(f"{phase}: finished after {duration(time.monotonic() - start)}, {folder}")


def _tell_of_student(config, sources: records.Sources, workdir: epath.Path) -> None:
  """Says which student is measured, where that is not what the config says."""
  if "student" not in sources:
    _tell(f"evaluate: no student in {workdir / 'distill'}, so the teacher is measured alone")
    return
  made, asked = (
    nested.select(c, ("distill",), records.PLACES) for c in (sources["student"].config, config)
  )
  if changed := nested.differences(made, asked):
    more = f" and {len(changed) - 3} more" * (len(changed) > 3)
    what = "; ".join(changed[:3])
    _tell(f"evaluate: the student was made by other settings ({what}{more}, its own first)")


def _devices(mesh: jax.sharding.Mesh) -> str:
  kind, number = mesh.devices.flat[0].device_kind, jax.process_count()
  processes = f" in {number} processes" if number > 1 else ""
  return f"{mesh.size} {kind} device{'s' if mesh.size > 1 else ''}{processes}"


def _tell(text: str, file: TextIO | None = None) -> None:
  """Prints in the first of several processes."""
  if jax.process_index() == 0:
    print(text, file=file, flush=True)


def _made_here(config, workdir: epath.Path, error: checkpoints.DamagedModelError) -> bool:
  """Whether the damaged checkpoint is of a phase that this run can go on with by itself."""
  folder = error.directory.parent
  return folder.parent == workdir and folder.name in config.phases


def _agreed(value: bool) -> bool:
  """What the first of several processes finds, once all of them have come here."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
