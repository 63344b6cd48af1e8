"""How many mistakes the tests see: `python -m benchmarks.mutation`, or `make mutants`.

A random sample of mutants, each against the tests of its folder, those of its own file first. The
rest of a run is kept in `--output`: a mutant whose file and tests have not changed is not run
again. After mending tests, `--only=survivors` runs just those that no test had seen.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time

from benchmarks import mutants

TESTS = {
  "diffusion": ("tests/diffusion",),
  "distillation": (
    "tests/distillation",
    "tests/phases/test_distill.py",
    "tests/phases/test_distill_losses.py",
    "tests/phases/test_distill_updates.py",
    "tests/test_config.py",  # what methods refuse
    "tests/test_methods.py",
  ),
  "metrics": ("tests/metrics",),
  "mmd": ("tests/mmd",),
}
# The test that measures time fails beside another process, whatever the mutant.
_NOT_TIMED = "not costs"
_COPIED = ("dmmd_jax", "tests", "configs", "benchmarks", "pyproject.toml")
# All that the tests import from elsewhere, so that a mutant does not have to.
_HEAVY = (
  "jax", "jax.numpy", "jax.experimental.multihost_utils", "flax.linen", "optax", "pytest",
  "orbax.checkpoint", "ml_collections", "etils.epath", "scipy.linalg", "sklearn.datasets",
  "sklearn.neural_network", "PIL.Image", "grain", "tqdm",
)  # fmt: skip


class Run:
  """Tests in a forked process, in a copy of the tree of its own, with one file replaced."""

  def __init__(self, tree: pathlib.Path, tests: list[str], limit: float, mutant=None):
    self.tree, self.mutant, self.limit = tree, mutant, limit
    self._log = tree.with_suffix(".log")
    if mutant:
      (tree / mutant.path).write_text(mutants.mutated(mutant), encoding="utf-8")
    self._start = time.monotonic()
    self._pid = os.fork() or self._child(tests)

  def _child(self, tests: list[str]) -> None:
    os.setsid()
    output = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1), os.dup2(output, 2), os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(self.tree)
    sys.path[:] = [str(self.tree), *(p for p in sys.path if p not in ("", os.getcwd()))]
    for name in [n for n in sys.modules if n.split(".")[0] in ("tests", "benchmarks")]:
      del sys.modules[name]
    code = 70
    try:
      import pytest

      import dmmd_jax.data

      assert dmmd_jax.data.__file__.startswith(str(self.tree)), dmmd_jax.data.__file__
      options = ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--tb=line", "-rfE"]
      code = int(pytest.main([*options, "-k", _NOT_TIMED, *tests]))
    finally:
      sys.stdout.flush(), sys.stderr.flush()
      os._exit(code)

  def poll(self) -> dict | None:
    """What came of it: `status` survived, caught or timeout, `by` a test; None while it runs."""
    seconds = time.monotonic() - self._start
    pid, status = os.waitpid(self._pid, os.WNOHANG)
    if not pid and seconds < self.limit:
      return None
    self._end_group()
    if not pid:
      os.waitpid(self._pid, 0)
    if self.mutant:
      path = self.mutant.path
      shutil.copyfile(self.tree.with_name("clean") / path, self.tree / path)
    text = self._log.read_text(errors="replace")
    by = re.search(r"^(?:FAILED|ERROR) (\S+)", text, re.MULTILINE)
    code = os.waitstatus_to_exitcode(status) if pid else None
    if code in (4, 5, 70):
      raise RuntimeError(f"the tests did not run: {text[-2000:]}")
    outcome = {0: "survived", None: "timeout"}.get(code, "caught")
    return {
      "status": outcome,
      "code": code,
      "by": by.group(1) if by else None,
      "seconds": round(seconds, 1),
    }

  def _end_group(self) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self._pid, signal.SIGKILL)


def test_files(folder: str, module: str = "") -> list[str]:
  """The test files of a folder, that of `module` first, those of other folders last."""
  found = []
  for path in map(pathlib.Path, TESTS[folder]):
    found += sorted(path.rglob("test_*.py")) if path.is_dir() else [path]
  return [str(p) for p in sorted(found, key=lambda p: p.stem != f"test_{module.strip('_')}")]


def run_all(jobs: list, trees: list[pathlib.Path], done) -> None:
  """Runs `(tests, limit, mutant)` as trees get free; `done(mutant, outcome)` hears of each."""
  waiting, running, free = collections.deque(jobs), [], list(trees)
  try:
    while waiting or running:
      while waiting and free:
        running.append((job := waiting.popleft(), Run(free.pop(), *job)))
      time.sleep(0.05)
      for entry in list(running):
        job, run = entry
        if outcome := run.poll():
          running.remove(entry)
          free.append(run.tree)
          done(job, outcome)
  finally:
    for _, run in running:
      run._end_group()


def prepare(output: pathlib.Path, workers: int) -> list[pathlib.Path]:
  """Copies of the tree, which nobody edits while the mutants run."""
  for name in ("clean", *(f"tree{i}" for i in range(workers))):
    shutil.rmtree(output / name, ignore_errors=True)
    for entry in _COPIED:
      source, target = pathlib.Path(entry), output / name / entry
      if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
      else:
        shutil.copyfile(source, target)
  return [output / f"tree{i}" for i in range(workers)]


def warm() -> None:
  """Imports what is heavy, and checks that a process may be forked afterwards."""
  import importlib
  import threading

  for name in _HEAVY:
    importlib.import_module(name)
  from jax._src import xla_bridge

  assert not xla_bridge.backends_are_initialized(), "jax has devices, and threads, already"
  assert threading.active_count() == 1, threading.enumerate()
  assert not any(name.split(".")[0] == "dmmd_jax" for name in sys.modules)


def report(records: list[dict], population: int, args) -> str:
  """The share caught in each folder, and all survivors."""
  lines = [f"{len(records)} of {population} mutants, seed {args.seed}"]
  lines += [f"{'folder':<14}{'mutants':>8}{'caught':>8}{'share':>8}{'seconds':>9}"]
  for folder in (*TESTS, "all"):
    chosen = [r for r in records if folder in ("all", r["folder"])]
    caught = sum(r["status"] != "survived" for r in chosen)
    if chosen:
      seconds = sum(r["seconds"] for r in chosen) / len(chosen)
      lines.append(
        f"{folder:<14}{len(chosen):>8}{caught:>8}{caught / len(chosen):>8.1%}{seconds:>9.1f}"
      )
  timeouts = sum(r["status"] == "timeout" for r in records)
  imports = sum(r["code"] == 2 for r in records)
  lines += [f"of those caught, {timeouts} by time and {imports} when imported", "", "survivors"]
  for r in records:
    if r["status"] == "survived":
      lines += [f"{r['name']}", f"    {r['change']}"]
  return "\n".join(lines)


def parse() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--sample", type=int, default=200)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--workers", type=int, default=2)
  parser.add_argument("--only-folder", choices=tuple(TESTS), help="of the sample, those of it")
  parser.add_argument("--only", choices=("survivors",), help="run the survivors again, as recorded")
  parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/mutants"))
  return parser.parse_args()


def main() -> None:
  args = parse()
  output = args.output.resolve()
  output.mkdir(parents=True, exist_ok=True)
  # Programs that a mutation does not change are compiled once.
  os.environ["JAX_COMPILATION_CACHE_DIR"] = str(output / "compiled")
  os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
  os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
  sys.dont_write_bytecode = True  # a mutant of the same size and second would be taken for clean

  files = [
    str(p) for folder in TESTS for p in sorted(pathlib.Path("dmmd_jax", folder).rglob("*.py"))
  ]
  population = [mutant for path in files for mutant in mutants.population(path)]
  drawn = mutants.sample(population, args.sample, args.seed)
  drawn = [m for m in drawn if args.only_folder in (None, folder_of(m))]
  print(f"{len(population)} mutants, of which {len(drawn)} are drawn", flush=True)

  store = output / "results.jsonl"
  lines = store.read_text().splitlines() if store.exists() else []
  known = {(r["name"], r["module"]): r for r in map(json.loads, lines)}  # the last one counts
  tests = {f: mutants.digest(*test_files(f), "tests/conftest.py") for f in TESTS}
  module = {path: mutants.digest(path) for path in files}

  def is_known(mutant) -> bool:
    record = known.get((mutant.name, module[mutant.path]))
    if args.only == "survivors":
      return record is None or record["status"] != "survived"
    return record is not None and record["tests"] == tests[folder_of(mutant)]

  todo = [m for m in drawn if not is_known(m)]
  if todo:
    trees = prepare(output, args.workers)
    warm()
    limits = clean_times(sorted({folder_of(m) for m in todo}), trees)

  def note(job, outcome) -> None:
    mutant, folder = job[2], folder_of(job[2])
    record = {"name": mutant.name, "folder": folder, "change": mutants.change(mutant), **outcome}
    record |= {"module": module[mutant.path], "tests": tests[folder]}
    known[mutant.name, record["module"]] = record
    with store.open("a") as f:
      f.write(json.dumps(record) + "\n")
    print(f"{record['status']:<9}{record['seconds']:>7} s  {mutant.name}", flush=True)

  jobs = [(test_files(folder_of(m), pathlib.Path(m.path).stem), limits[folder_of(m)], m)
          for m in todo]  # fmt: skip
  if jobs:
    run_all(jobs, trees, note)
  records = [known[key] for m in drawn if (key := (m.name, module[m.path])) in known]
  (output / "summary.json").write_text(json.dumps(records, indent=1) + "\n")
  text = report(records, len(population), args)
  (output / "summary.txt").write_text(text + "\n")
  print(text)


def folder_of(mutant: mutants.Mutant) -> str:
  return pathlib.Path(mutant.path).parts[1]


def clean_times(folders: list[str], trees: list[pathlib.Path]) -> dict[str, float]:
  """The time that a mutant may take in each folder, from its tests without one."""
  limits = {}

  def note(job, outcome) -> None:
    folder = next(f for f in folders if test_files(f) == job[0])
    if outcome["status"] != "survived":
      sys.exit(f"the tests of {folder} fail without a mutant: {outcome}")
    limits[folder] = 3 * outcome["seconds"] + 30
    print(f"{folder}: {outcome['seconds']} s without a mutant", flush=True)

  run_all([(test_files(folder), 1800.0, None) for folder in folders], trees, note)
  return limits


if __name__ == "__main__":
  main()
