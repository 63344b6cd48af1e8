"""Draws cases of all kinds, runs them, and keeps what they need between them."""

import contextlib
import pathlib
import shutil

import numpy as np

from tests.fuzz import cases, damage, files, overrides
from tests.fuzz.server import HEAVY, LIGHT, Server

_KINDS = ("config", "file", "damage")


def shares(number: int) -> dict[str, int]:
  """How many of so many cases are of each kind: damage takes seconds, a config none."""
  damages, wrong_files = number * 3 // 20, number // 4
  return {"config": number - damages - wrong_files, "file": wrong_files, "damage": damages}


class Fuzzer:
  """Makes and runs the cases of a seed; each depends on its own number alone."""

  def __init__(self, folder: pathlib.Path, seed: int):
    self._folder, self._seed, self._servers = folder, seed, {}
    self.whole: damage.Undamaged | None = None

  def __enter__(self) -> "Fuzzer":
    self._stack = contextlib.ExitStack()
    return self

  def __exit__(self, *_) -> None:
    self._stack.close()

  def case(self, what: str, number: int) -> dict:
    """Kind, command, complaints and last words of the case `number` of `what`."""
    rng = np.random.default_rng([self._seed, _KINDS.index(what), number])
    folder = self._folder / f"{what}{number}"
    folder.mkdir()
    run = self.server(what).run
    if what == "damage":
      self.whole = self.whole or damage.Undamaged(self._folder, run)
      kind, complaints, outcome = damage.survival(self.whole, folder, rng)
      command = "the same again"
    else:
      case = (overrides if what == "config" else files).draw(rng)
      complaints, outcome = cases.refusal(case, folder, run)
      kind, command = case.kind, " ".join((case.module, *case.args))
    shutil.rmtree(folder)
    said = (outcome.err.strip() or "nothing").splitlines()[-1][:300]
    return {"kind": kind, "command": command, "complaints": complaints, "said": said}

  def server(self, what: str) -> Server:
    """The process whose forks run the cases of `what`."""
    modules = LIGHT if what == "config" else HEAVY
    if modules not in self._servers:
      server = Server(modules, **damage.environment())
      self._servers[modules] = self._stack.enter_context(server)
    return self._servers[modules]
