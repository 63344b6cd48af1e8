"""Draws cases of all kinds, runs them, and keeps what they need between them."""

import contextlib
import pathlib
import shutil

import numpy as np

from tests.fuzz import cases, damage, files, overrides
from tests.server import HEAVY, LIGHT, Server

_KINDS = ("config", "file", "damage")


def shares(number: int) -> dict[str, int]:
  """How many of so many cases are of each kind: damage takes seconds, a config none."""
  damages, wrong_files = number * 3 // 20, number // 4
  return {"config": number - damages - wrong_files, "file": wrong_files, "damage": damages}


class Fuzzer:
  """Makes and runs the cases of a seed; each depends on its own number alone."""

  def __init__(self, folder: pathlib.Path, seed: int):
    self._folder, self._seed, self._servers = folder, seed, {}
    self._whole: damage.Undamaged | None = None

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
      kind, complaints, outcome = damage.survival(self.undamaged(), folder, rng)
      command = "the same again"
    else:
      case = (overrides if what == "config" else files).draw(rng)
      if any("{text}" in arg for arg in case.args):
        case = case.filled("{text}", str(self._text()))
      complaints, outcome = cases.refusal(case, folder, run)
      kind, command = case.kind, " ".join((case.module, *case.args))
    shutil.rmtree(folder)
    said = (outcome.err.strip() or "nothing").splitlines()[-1][:300]
    return {"kind": kind, "command": command, "complaints": complaints, "said": said}

  def undamaged(self) -> damage.Undamaged:
    """A whole run, made once."""
    self._whole = self._whole or damage.Undamaged(self._folder, self.server("damage").run)
    return self._whole

  def _text(self) -> pathlib.Path:
    """A workdir with a teacher of text, made once."""
    workdir = self._folder / "text"
    if not workdir.exists():
      args = (*files.TEXT_RUN, f"--workdir={workdir}")
      outcome = self.server("file").run("dmmd_jax.main", args, damage.SECONDS)
      if outcome.code != 0:
        raise RuntimeError(f"the run on text ended with {outcome.code}: {outcome.err[-2000:]}")
    return workdir

  def server(self, what: str) -> Server:
    """The process whose forks run the cases of `what`."""
    modules = LIGHT if what == "config" else HEAVY
    if modules not in self._servers:
      server = Server(modules, **damage.environment())
      self._servers[modules] = self._stack.enter_context(server)
    return self._servers[modules]
