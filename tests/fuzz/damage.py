"""Damaged workdirs of one tiny run: each ends in one line, or as the undamaged run has ended."""

import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.conftest import ONE_DEVICE
from tests.fuzz.cases import complaints
from tests.server import Outcome

TINY = (
  "--config=configs/coins_dmmd.py", "--config.run.tensorboard=False",
  "--config.run.checkpoint_every=6", "--config.network.width=16",
  "--config.teacher.num_steps=12", "--config.teacher.batch_size=32",
  "--config.distill.num_steps=12", "--config.distill.batch_size=32",
  "--config.distill.method=kernel_score",
  "--config.evaluate.teacher_nfe=(1,)", "--config.evaluate.student_nfe=(1,)",
  "--config.evaluate.num_sample_batches=2",
)  # fmt: skip
PHASES = ("teacher", "distill")
STEP, STEP_BEFORE = "12", "6"
SECONDS = 120.0


class Damage(NamedTuple):
  """What was done to a workdir, the exit codes that are right, and how to undo what is outside."""

  kind: str
  codes: tuple[int, ...] = (0, 2)
  undo: Callable[[], None] = lambda: None


class Undamaged:
  """The workdir of a whole run, made once, and what has come of it."""

  def __init__(self, folder: pathlib.Path, run: Callable[..., Outcome]):
    self.workdir, self._run = folder / "whole", run
    outcome = self.start(self.workdir)
    if outcome.code != 0:
      raise RuntimeError(f"the undamaged run ended with {outcome.code}: {outcome.err[-2000:]}")
    self.result = result_of(self.workdir)

  def start(self, workdir: pathlib.Path) -> Outcome:
    return self._run("dmmd_jax.main", (*TINY, f"--workdir={workdir}"), SECONDS)


logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of files that it does not need


def result_of(workdir: pathlib.Path) -> tuple[list, dict, set[str]]:
  """Rows of the results, the averaged parameters of all phases, and the names of what is shown."""
  rows = json.loads((workdir / "evaluate" / "results.json").read_text())["rows"]
  shown = {p.name for p in (workdir / "evaluate").iterdir() if p.stat().st_size > 500}
  return rows, {phase: final_average(workdir / phase) for phase in PHASES}, shown


def final_average(phase: pathlib.Path) -> list[bytes]:
  """The subtree `ema` of a phase's last checkpoint."""
  path = phase.absolute() / "checkpoints" / STEP / "default"
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = {"ema": checkpointer.metadata(path).item_metadata.tree["ema"]}
    restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    args = ocp.args.PyTreeRestore(tree, restore_args=restore_args, partial_restore=True)
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(checkpointer.restore(path, args=args))]


def _spoil(path: pathlib.Path, rng: np.random.Generator) -> str:
  """Truncates, empties, deletes or changes a file."""
  content = bytearray(path.read_bytes())
  how = ("truncated", "emptied", "deleted", "flipped")[rng.integers(4)]
  if how == "deleted":
    path.unlink()
  elif how == "flipped" and content:
    for at in rng.integers(len(content), size=8):
      content[at] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
  else:
    path.write_bytes(content[: rng.integers(len(content) or 1)] if how == "truncated" else b"")
  return how


def _checkpoint(workdir: pathlib.Path, rng: np.random.Generator) -> Damage:
  """The newest checkpoint of a phase, which what follows has yet to read."""
  phase = PHASES[rng.integers(2)]
  for later in ("evaluate", *PHASES[PHASES.index(phase) + 1 :]):
    shutil.rmtree(workdir / later)
  step = workdir / phase / "checkpoints" / STEP
  files = sorted(path for path in step.rglob("*") if path.is_file())
  how = rng.integers(10)
  if how == 0:
    shutil.rmtree(step)
    return Damage("checkpoint: removed", (0,))
  if how == 3:
    shutil.rmtree(step)
    shutil.copytree(step.with_name(STEP_BEFORE), step)
    (workdir / phase / "record.json").unlink()
    return Damage("checkpoint: the one before in its place", (0,))
  if how == 1:
    for path in files:
      path.write_bytes(b"")
    return Damage("checkpoint: all files emptied", (0,))
  if how == 2:
    shutil.rmtree(step)
    step.mkdir()
    return Damage("checkpoint: an empty folder", (0,))
  path = files[rng.integers(len(files))]  # orbax names some of them at random
  size, name = path.stat().st_size, path.relative_to(step)
  return Damage(f"checkpoint: {_spoil(path, rng)} {phase} {name} of {size} bytes", (0,))


def _record(workdir: pathlib.Path, rng: np.random.Generator) -> Damage:
  """A file that a phase leaves: its config, its record, the results, tables and figures."""
  files = sorted(path for path in workdir.glob("*/*.*") if path.is_file())
  path = files[rng.integers(len(files))]
  if rng.random() < 0.4:
    return Damage(f"{path.name}: {_spoil(path, rng)}")
  contents = {"a list": b"[1, 2]", "null": b"null", "a number": b"3", "binary": rng.bytes(200),
              "another's": b'{"rows": 3, "seed": "x"}', "nested": b"[" * 100_000}  # fmt: skip
  name = list(contents)[rng.integers(len(contents))]
  path.write_bytes(contents[name])
  return Damage(f"{path.name}: {name}")


def _layout(workdir: pathlib.Path, rng: np.random.Generator) -> Damage:
  """Files where folders belong, and entries that nobody has asked for."""
  phase = workdir / PHASES[rng.integers(2)]
  shutil.rmtree(workdir / "evaluate")
  how = rng.integers(5)
  if how == 0:
    shutil.rmtree(phase / "checkpoints")
    (phase / "checkpoints").write_text("here be checkpoints")
    return Damage("checkpoints is a file", (2,))
  if how == 1:
    shutil.rmtree(phase)
    phase.write_text("here be a phase")
    return Damage("a phase is a file", (2,))
  if how == 2:
    shutil.rmtree(workdir)
    workdir.write_text("here be a run")
    return Damage("workdir is a file", (2,))
  stray = ("notes.txt", "tmp", ".DS_Store", "99", "012", "-1", "1e3", "\u0663")[rng.integers(8)]
  if how == 3:
    (phase / "checkpoints" / stray).write_text("stray")
  else:
    (phase / "checkpoints" / stray).mkdir()
  return Damage(f"stray {'file' if how == 3 else 'folder'} {stray}", (0,))


def _held(workdir: pathlib.Path, rng: np.random.Generator) -> Damage:
  """Another run is at work in it, and stopped for the moment: it lives."""
  for phase in ("evaluate", PHASES[1]):
    shutil.rmtree(workdir / phase)
  command = [sys.executable, "-m", "dmmd_jax.main", *TINY, f"--workdir={workdir}"]
  quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
  other = subprocess.Popen(command, env=os.environ | environment(), **quiet)
  deadline = time.monotonic() + SECONDS
  while not (workdir / PHASES[1]).exists() and other.poll() is None:
    if time.monotonic() > deadline:
      break
    time.sleep(0.01)
  other.send_signal(signal.SIGSTOP)

  def undo():
    other.kill()
    other.wait()

  return Damage("held by a living process", (2,), undo)


def draw(workdir: pathlib.Path, rng: np.random.Generator) -> Damage:
  """Damages a workdir in a random way."""
  kinds = (_checkpoint, _record, _layout, _held)
  return kinds[rng.choice(4, p=(0.5, 0.25, 0.2, 0.05))](workdir, rng)


def survival(whole: Undamaged, folder: pathlib.Path, rng: np.random.Generator) -> Iterator:
  """Damages a copy and runs again; kind, complaints and outcome."""
  workdir = folder / "run"
  shutil.copytree(whole.workdir, workdir)
  damage = draw(workdir, rng)
  try:
    outcome = whole.start(workdir)
  finally:
    damage.undo()
  found = complaints(outcome, SECONDS, damage.codes)
  if outcome.code == 0:
    found += differences(whole, workdir)
  return damage.kind, found, outcome


def differences(whole: Undamaged, workdir: pathlib.Path) -> list[str]:
  """How the result in a workdir differs from that of the undamaged run."""
  try:
    rows, parameters, shown = result_of(workdir)
  except Exception as error:
    return [f"exit code 0 and {type(error).__name__} when it is read"]
  found = [] if rows == whole.result[0] else ["exit code 0 with other rows"]
  changed = [p for p in PHASES if parameters[p] != whole.result[1][p]]
  found += [f"exit code 0 with other parameters of {phase}" for phase in changed]
  lost = sorted(whole.result[2] - shown)
  return found + [f"exit code 0 without {name}" for name in lost]


def environment() -> dict[str, str]:
  """One device, and programs compiled once for all cases."""
  cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", os.path.expanduser("~/.cache/dmmd_jax"))
  return ONE_DEVICE | {
    "JAX_COMPILATION_CACHE_DIR": cache,
    "JAX_PLATFORMS": "cpu",
  }
