"""What a case is, and when a command has answered it well."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Callable

from tests.server import Outcome


@dataclasses.dataclass(frozen=True)
class Case:
  """A command that has to be refused; `{folder}` in `args` is that of the case.

  `make` writes what the command reads. The message has one of `mentions`, so that it cannot have
  been refused for another reason.
  """

  kind: str
  args: tuple[str, ...]
  mentions: tuple[str, ...]
  module: str = "dmmd_jax.main"
  make: Callable[[pathlib.Path], None] = lambda folder: None
  seconds: float = 30.0  # of CPU

  def filled(self, name: str, value: str) -> "Case":
    """The case with `value` in place of `name` in its arguments."""
    return dataclasses.replace(self, args=tuple(arg.replace(name, value) for arg in self.args))

  def arguments(self, folder: pathlib.Path) -> tuple[str, ...]:
    args = self.filled("{folder}", str(folder)).args
    return (*args, f"--workdir={folder / 'run'}") if self.module == "dmmd_jax.main" else args


def contents(folder: pathlib.Path) -> dict[str, str]:
  """Every file below a folder with a hash of what it holds."""
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob("*"))
    if path.is_file()
  }


def complaints(outcome: Outcome, limit: float, codes: tuple[int, ...] = (2,)) -> list[str]:
  """What is wrong with how a command ended, whatever it was asked."""
  found = []
  if outcome.code is None:
    return [f"runs after {outcome.seconds:.0f} s"]
  if "Traceback (most recent call last)" in outcome.err:
    return ["traceback"]
  if outcome.code not in codes:
    found.append(f"exit code {outcome.code}")
  if outcome.code == 2:
    if outcome.err.count("\n") != 1 or not outcome.err.endswith("\n"):
      found.append(f"{outcome.err.count(chr(10))} lines")
    if not outcome.err.startswith("dmmd_jax"):
      found.append("not the program's name first")
    if "\\n" in outcome.err or "\\'" in outcome.err:
      found.append("escapes in the message")
  if outcome.seconds > limit:
    found.append(f"{outcome.seconds:.1f} s of CPU")
  return found


def refusal(case: Case, folder: pathlib.Path, run: Callable[..., Outcome]) -> tuple:
  """Runs a case; its complaints (none where it is well refused) and what the command said."""
  case.make(folder)
  before = contents(folder)
  # What is accepted trains; it need not go on for long.
  outcome = run(case.module, case.arguments(folder), max(12.0, case.seconds))
  found = complaints(outcome, case.seconds)
  if not found and not any(word.lower() in outcome.err.lower() for word in case.mentions):
    found.append(f"message names none of {', '.join(case.mentions)}")
  if (folder / "run").exists():
    found.append("wrote a workdir")
  if contents(folder) != before and not (folder / "run").exists():
    found.append("changed its inputs")
  return found, outcome
