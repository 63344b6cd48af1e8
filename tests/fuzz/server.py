"""Runs commands of the package in forks of a process that has imported already.

A fresh interpreter spends its seconds on imports, which are the same every time. The child is as
fresh as a new process otherwise: nothing of the package is imported before the fork, and jax has no
devices yet.
"""

import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

# What dmmd_jax.main imports before it has checked the config.
LIGHT = ("absl.app", "ml_collections.config_flags", "etils.epath", "numpy")
HEAVY = (
  *LIGHT, "jax", "jax.numpy", "jax.experimental.multihost_utils", "flax.linen", "optax",
  "orbax.checkpoint", "PIL.Image", "tqdm", "matplotlib.pyplot",
)  # fmt: skip


class Outcome(NamedTuple):
  """Exit code (None: still running at the limit), output, and seconds of CPU of a command."""

  code: int | None
  out: str
  err: str
  seconds: float


class Server:
  """A process that forks one child per command; a context manager."""

  def __init__(self, modules: tuple[str, ...], **environment: str):
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.fuzz.server", *modules],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | environment,
    )

  def __enter__(self) -> "Server":
    return self

  def __exit__(self, *_) -> None:
    self._process.stdin.close()
    self._process.wait()

  def run(self, module: str, args: tuple[str, ...], limit: float) -> Outcome:
    """What `python -m module args` does, killed with its children after `limit` seconds.

    On a machine that has other work, too, they are so much longer.
    """
    with tempfile.TemporaryDirectory() as folder:
      request = {"module": module, "args": args, "limit": limit, "folder": folder}
      print(json.dumps(request), file=self._process.stdin, flush=True)
      reply = json.loads(self._process.stdout.readline())
      texts = []
      for name in ("out", "err"):
        with open(f"{folder}/{name}", encoding="utf-8", errors="replace") as file:
          texts.append(file.read())
    return Outcome(reply["code"], *texts, reply["seconds"])


def slowdown() -> float:
  """How much longer a command takes since this machine has other work, too."""
  return max(1.0, os.getloadavg()[0] / os.cpu_count())


def _serve(modules: list[str]) -> None:
  for name in modules:
    importlib.import_module(name)
  for line in sys.stdin:
    request = json.loads(line)
    pid = os.fork()
    if not pid:
      return _become(**request)
    print(json.dumps(_wait(pid, request["limit"])), flush=True)


def _become(module: str, args: list[str], folder: str, **_) -> None:
  """In the child: the rest of the process is that of `python -m module args`."""
  os.setsid()
  files = [os.devnull, f"{folder}/out", f"{folder}/err"]
  for number, path in enumerate(files):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
  sys.argv = [module, *args]
  runpy.run_module(module, run_name="__main__", alter_sys=True)


def _wait(pid: int, limit: float) -> dict:
  handle = os.pidfd_open(pid)
  start, patience, ended = time.monotonic(), limit, []
  while patience > 0 and not ended:
    ended, _, _ = select.select([handle], [], [], min(patience, 1.0))
    patience -= 1.0 / slowdown()
  os.close(handle)
  if not ended:
    os.killpg(pid, signal.SIGKILL)
  _, status, usage = os.wait4(pid, 0)
  code = os.waitstatus_to_exitcode(status) if ended else None
  seconds = usage.ru_utime + usage.ru_stime if ended else time.monotonic() - start
  return {"code": code, "seconds": seconds}


if __name__ == "__main__":
  _serve(sys.argv[1:])
