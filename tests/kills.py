"""Kills runs of all phases at random moments, and compares what they come to in the end.

`python -m tests.kills --kills=100`: each experiment runs undisturbed, and then again and again with
SIGKILL, started anew after each until it is complete. Whole runs are compared with the undisturbed
one: every array of the final states, bit for bit, and the rows of the results.
"""

import argparse
import collections
import concurrent.futures
import contextlib
import json
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from tests.conftest import ONE_DEVICE
from tests.server import slowdown

_SMALL = (
  "--config.run.checkpoint_every=7", "--config.network.width=16", "--config.network.depth=1",
  "--config.network.heads=2", "--config.teacher.num_steps=30", "--config.teacher.batch_size=16",
  "--config.distill.num_steps=20", "--config.distill.batch_size=16",
  "--config.evaluate.num_sample_batches=2", "--config.evaluate.sample_batch_size=32",
)  # fmt: skip
EXPERIMENTS = {
  "text": (
    "--config=configs/text_dmmd.py", *_SMALL, "--config.dataset.length=16",
    "--config.run.tensorboard=False", "--config.reference.num_steps=20",
    "--config.reference.batch_size=16", "--config.distill.method=dmmd_kernel",
    "--config.distill.score.scales=((0,1,(2.0,)),)",
    "--config.evaluate.teacher_nfe=(1,2)", "--config.evaluate.student_nfe=(1,2)",
  ),
  "coins": (
    "--config=configs/coins_dmmd.py", *_SMALL,
    "--config.evaluate.teacher_nfe=(1,2,3)", "--config.evaluate.student_nfe=(1,2,3)",
  ),
}  # fmt: skip
STEPS = {"text": {"reference": 20, "teacher": 30, "distill": 20},
         "coins": {"teacher": 30, "distill": 20}}  # fmt: skip
logging.getLogger("absl").setLevel(logging.ERROR)  # orbax warns of files that it does not need
# How many of the kills wait until a checkpoint, or the results, are being written.
_AIMED = {"": 0.7, "saving": 0.15, "reporting": 0.15}
# So many at most before a run may end: most of them would fall into its last phase.
_PER_RUN = 6
_REPORTS = ("*.png", "*.md", "*results*")
_SECONDS = 600.0


class Run:
  """An experiment in a workdir, as a process of its own."""

  def __init__(self, name: str, workdir: pathlib.Path):
    self.name, self.workdir, self._log = name, workdir, workdir.with_suffix(".log")
    command = [sys.executable, "-m", "dmmd_jax.main", *EXPERIMENTS[name], f"--workdir={workdir}"]
    environment = os.environ | ONE_DEVICE
    self.start, self._began = time.monotonic(), time.time()
    with self._log.open("w") as log:
      self._process = subprocess.Popen(
        command, env=environment, stdout=log, stderr=log, start_new_session=True
      )

  def seconds(self) -> float:
    return time.monotonic() - self.start

  def wait(self, seconds: float) -> int | None:
    """The exit code; None where it still runs after so many seconds."""
    try:
      return self._process.wait(max(seconds, 0.0))
    except subprocess.TimeoutExpired:
      return None

  def kill(self) -> int:
    """SIGKILL to it and to all that it has started; the exit code."""
    self._process.send_signal(signal.SIGKILL)
    code = self._process.wait()
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._process.pid, signal.SIGKILL)
    return code

  def last_words(self) -> str:
    return self._log.read_text(errors="replace")[-1500:]

  def phase(self) -> str:
    """What it is doing, as far as its files and its output show."""
    if "workdir" not in self._log.read_text(errors="replace"):
      return "start"
    for phase, last in STEPS[self.name].items():
      if not _has_step(self.workdir / phase, last):
        return phase
    return "evaluate"

  def is_saving(self) -> bool:
    """Whether a checkpoint is being written."""
    return any(self.workdir.glob("*/checkpoints/*tmp*"))

  def is_reporting(self) -> bool:
    """Whether figures, tables or results have been written since it began."""
    written = [p for pattern in _REPORTS for p in (self.workdir / "evaluate").glob(pattern)]
    return any(p.exists() and p.stat().st_mtime > self._began for p in written)


def _limit() -> float:
  """Seconds after which a run hangs."""
  return _SECONDS * slowdown()


def _has_step(phase: pathlib.Path, step: int) -> bool:
  return (phase / "checkpoints" / str(step)).is_dir()


class Kill(NamedTuple):
  """When a run was killed (seconds of that process), and what it was doing."""

  phase: str
  writing: str
  seconds: float


def disturbed(
  name: str, workdir: pathlib.Path, spans: dict[str, float], rng: np.random.Generator, budget: int
) -> tuple[list[Kill], str]:
  """Runs to the end with at most `budget` kills, each at a moment of what remains to be done.

  The kills, and what was wrong with how a process ended, "" where nothing was.
  """
  kills = []
  while True:
    run = Run(name, workdir)
    aim = rng.choice(list(_AIMED), p=list(_AIMED.values())) if len(kills) < budget else None
    moment = rng.uniform(0.0, remaining(name, workdir, spans))
    pause = rng.exponential(0.02)
    code = run.wait(_limit() if aim is None else 0.0 if aim else moment)
    if aim:
      code = _wait_until(run, run.is_saving if aim == "saving" else run.is_reporting, pause)
    if code is None and aim is not None and run.seconds() < _limit():
      writing = "checkpoint" if run.is_saving() else "results" if run.is_reporting() else ""
      kills.append(Kill(run.phase(), writing, round(run.seconds(), 1)))
      run.kill()
      continue
    if code == 0:
      return kills, ""
    run.kill()
    what = "hangs" if code is None else f"ended with {code}"
    return kills, f"{workdir} {what} after {kills[-1:]}: {run.last_words()}"


def _wait_until(run: Run, happens: Callable[[], bool], pause: float) -> int | None:
  """Waits for a moment, and then for `pause` seconds; the exit code if it ends before."""
  code = None
  while code is None and not happens() and run.seconds() < _limit():
    code = run.wait(0.002)
  return run.wait(pause) if code is None else code


def remaining(name: str, workdir: pathlib.Path, spans: dict[str, float]) -> float:
  """Seconds that the run in this workdir takes from now on, by those of the undisturbed run."""
  done = [phase for phase, last in STEPS[name].items() if _has_step(workdir / phase, last)]
  return sum(seconds for phase, seconds in spans.items() if phase not in done)


def undisturbed(name: str, workdir: pathlib.Path) -> dict[str, float]:
  """A whole run; the seconds that it spent in each phase."""
  run, spans = Run(name, workdir), collections.Counter()
  last = run.seconds()
  while (code := run.wait(0.02)) is None:
    now = run.seconds()
    spans[run.phase()] += now - last
    last = now
  if code:
    raise SystemExit(f"{name} ended with {code}: {run.last_words()}")
  return dict(spans)


def result(name: str, workdir: pathlib.Path) -> tuple:
  """All arrays of the final state of each phase, and the rows of the results."""
  rows = json.loads((workdir / "evaluate" / "results.json").read_text())["rows"]
  rows = [{k: v for k, v in row.items() if k != "seconds_per_sample"} for row in rows]
  states = {phase: _arrays(workdir / phase, last) for phase, last in STEPS[name].items()}
  return rows, states


def _arrays(phase: pathlib.Path, step: int) -> list[bytes]:
  path = phase.absolute() / "checkpoints" / str(step) / "default"
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    state = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
  return [np.asarray(x).tobytes() for x in jax.tree.leaves(state)]


def torment(name: str, folder: pathlib.Path, number: int, seed: int) -> dict:
  """Kills of one experiment, over as many whole runs as they take, and what was wrong."""
  rng = np.random.default_rng([seed, list(EXPERIMENTS).index(name)])
  undisturbed(name, folder / f"{name}-first")  # compiles
  spans = undisturbed(name, folder / f"{name}-whole")
  print(name, {phase: round(seconds, 1) for phase, seconds in spans.items()}, flush=True)
  expected = result(name, folder / f"{name}-whole")
  wrong = [] if result(name, folder / f"{name}-first") == expected else ["not deterministic"]
  kills, runs = [], 0
  while len(kills) < number:
    workdir = folder / f"{name}-{runs}"
    budget = min(number - len(kills), _PER_RUN)
    of_run, problem = disturbed(name, workdir, spans, rng, budget)
    kills, runs = kills + of_run, runs + 1
    if not problem:
      rows, states = result(name, workdir)
      differing = [phase for phase, state in states.items() if state != expected[1][phase]]
      differing += ["rows"] if rows != expected[0] else []
      problem = f"{workdir} has other {', '.join(differing)}" if differing else ""
    if problem:
      wrong.append(problem)
    else:
      shutil.rmtree(workdir)
    print(f"{name}: {len(kills)} kills, {runs} runs, {len(wrong)} wrong", flush=True)
  return {"kills": kills, "runs": runs, "wrong": wrong}


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
  parser.add_argument("--kills", type=int, default=100)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", choices=tuple(EXPERIMENTS))
  args = parser.parse_args()
  names = [args.only] if args.only else list(EXPERIMENTS)
  folder = pathlib.Path(tempfile.mkdtemp(prefix="kills"))
  start = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(len(names)) as pool:
    shares = [args.kills * (i + 1) // len(names) - args.kills * i // len(names)
              for i in range(len(names))]  # fmt: skip
    found = list(pool.map(torment, names, [folder] * len(names), shares, [args.seed] * len(names)))
  for name, of_it in zip(names, found, strict=True):
    by_phase = collections.Counter(kill.phase for kill in of_it["kills"])
    phases = ", ".join(
      f"{phase} {by_phase[phase]}" for phase in ("start", *STEPS[name], "evaluate")
    )
    print(f"{name}: {len(of_it['kills'])} kills in {of_it['runs']} runs: {phases}")
    writing = collections.Counter(kill.writing for kill in of_it["kills"])
    print(f"  while writing a checkpoint {writing['checkpoint']}, results {writing['results']}")
    print("\n".join(f"  wrong: {problem}" for problem in of_it["wrong"] or ["nothing"]))
  print(f"{time.monotonic() - start:.0f} s")
  if any(of_it["wrong"] for of_it in found):
    sys.exit(1)
  shutil.rmtree(folder)


if __name__ == "__main__":
  main()
