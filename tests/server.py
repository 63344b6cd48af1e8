"""Runs commands of the package in forks of a process that has imported already.

A fresh interpreter spends its seconds on imports, which are the same every time. The child is as
fresh as a new process otherwise: nothing of the package is imported before the fork, and jax has no
devices yet.
"""

import importlib
import json
import os
import pathlib
import runpy
import select
import shutil
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


class Started:
  """A command that runs in a fork, as `subprocess.Popen` has one."""

  def __init__(self, server: "Server", pid: int, folder: str):
    self.pid, self._server, self._folder = pid, server, folder
    self._handle = os.pidfd_open(pid)

  def poll(self) -> bool:
    """Whether it has ended."""
    return bool(select.select([self._handle], [], [], 0)[0])

  def send_signal(self, number: int) -> None:
    signal.pidfd_send_signal(self._handle, number)

  def wait(self, limit: float) -> Outcome:
    """What came of it, killed with its children after `limit` seconds.

    On a machine that has other work, too, they are so much longer.
    """
    reply = self._server.ask(wait=self.pid, limit=limit)
    os.close(self._handle)
    texts = []
    for name in ("out", "err"):
      path = pathlib.Path(self._folder, name)
      texts.append(path.read_text(encoding="utf-8", errors="replace"))
    shutil.rmtree(self._folder)
    return Outcome(reply["code"], *texts, reply["seconds"])


class Server:
  """A process that forks one child per command; a context manager."""

  def __init__(self, modules: tuple[str, ...], **environment: str):
    self._process = subprocess.Popen(
      [sys.executable, "-m", "tests.server", *modules],
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

  def ask(self, **request) -> dict:
    print(json.dumps(request), file=self._process.stdin, flush=True)
    return json.loads(self._process.stdout.readline())

  def start(self, module: str, args: tuple[str, ...], **environment: str) -> Started:
    """Does what `python -m module args` does, with more in the environment.

    Of that the fork sees what is read after the imports, such as XLA_FLAGS.
    """
    folder = tempfile.mkdtemp()
    args = [*map(str, args)]
    reply = self.ask(module=module, args=args, folder=folder, environment=environment)
    return Started(self, reply["pid"], folder)

  def run(
    self, module: str, args: tuple[str, ...], limit: float = 300.0, **environment: str
  ) -> Outcome:
    """What comes of `python -m module args` within `limit` seconds, as `Started.wait` has them."""
    return self.start(module, args, **environment).wait(limit)


def slowdown() -> float:
  """How much longer a command takes since this machine has other work, too."""
  return max(1.0, os.getloadavg()[0] / os.cpu_count())


def _serve(modules: list[str]) -> None:
  for name in modules:
    importlib.import_module(name)
  for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
      reply = _wait(request["wait"], request["limit"])
    else:
      pid = os.fork()
      if not pid:
        return _become(**request)
      reply = {"pid": pid}
    print(json.dumps(reply), flush=True)


def _become(module: str, args: list[str], folder: str, environment: dict[str, str]) -> None:
  """In the child: the rest of the process is that of `python -m module args`."""
  os.setsid()
  files = [os.devnull, f"{folder}/out", f"{folder}/err"]
  for number, path in enumerate(files):
    os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
  os.environ.update(environment)
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
