"""The commands of this package: `python -m dmmd_jax` lists them. Standard library only."""

import difflib
import runpy
import sys
from typing import NamedTuple


class Command(NamedTuple):
  """A module with a command line, a sentence on it, and arguments to try it with."""

  module: str
  sentence: str
  example: str


COMMANDS = {
  "train": Command(
    "dmmd_jax.main",
    "Trains, distils and evaluates, as a config says.",
    "--config=digits_dmmd",
  ),
  "convert": Command(
    "dmmd_jax.convert",
    "Takes a teacher that others have trained into a run, or writes a model in their format.",
    "~/mdlm-owt --workdir=runs/mdlm",
  ),
  "runs": Command(
    "dmmd_jax.runs", "Lists runs: how far each of them is, and its best figures.", ""
  ),
  "compare": Command(
    "dmmd_jax.compare",
    "Shows the results of several runs side by side.",
    "runs/digits_dmmd runs/digits_kernel --out=comparison.png",
  ),
  "sample": Command(
    "dmmd_jax.sample",
    "Draws images, texts or other sequences from a trained model.",
    "--workdir=runs/digits_dmmd --num=64 --nfe=8",
  ),
  "metrics": Command(
    "dmmd_jax.metrics",
    "Measures samples of text under a reference model.",
    "samples.npy --reference=runs/text_dmmd",
  ),
  "mmd": Command(
    "dmmd_jax.mmd",
    "Estimates and tests the Maximum Mean Discrepancy between two samples.",
    "samples.npy data.npy --kernel=hamming",
  ),
}
_ALIASES = {"main": "train"}


def main(argv: list[str]) -> None:
  """Runs the command `argv[0]` with the other arguments; without any, prints the commands."""
  if not argv or argv[0] in ("-h", "--help", "help"):
    print(listing())
    return
  name = _ALIASES.get(argv[0], argv[0])
  if name not in COMMANDS:
    print(f"dmmd_jax: {_unknown(name)}", file=sys.stderr)
    sys.exit(2)
  sys.argv = [f"python -m dmmd_jax {argv[0]}", *argv[1:]]
  runpy.run_module(COMMANDS[name].module, run_name="__main__")


def listing() -> str:
  """All commands, and an example of each."""
  width = max(map(len, COMMANDS))
  lines = ["usage: python -m dmmd_jax COMMAND ...", ""]
  lines += [f"  {name:<{width}}  {command.sentence}" for name, command in COMMANDS.items()]
  lines += ["", "COMMAND --help lists the options of a command. Examples:", ""]
  lines += [f"  python -m dmmd_jax {name} {c.example}".rstrip() for name, c in COMMANDS.items()]
  return "\n".join(lines)


def _unknown(name: str) -> str:
  close = difflib.get_close_matches(name, COMMANDS, 1)
  meant = f"; did you mean {close[0]}?" if close else ""
  return f"no command {name!r}; expected one of {', '.join(COMMANDS)}{meant}"


if __name__ == "__main__":
  main(sys.argv[1:])
