"""Scripts of launch/ are run with stand-ins for the programs that they call."""

import pathlib
import shlex
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
PHASES = "--config.phases=('teacher',)"  # has what a shell and YAML would take for their own
RUN = {"CONFIG": "configs/coins_dmmd.py", "WORKDIR": "/runs/mine"}


class Shell:
  """Runs scripts where gcloud, kubectl and the like are stand-ins that note every call."""

  def __init__(self, folder: pathlib.Path):
    self.home = folder / "home"
    self.home.mkdir()
    self.programs = folder / "bin"
    self.programs.mkdir()
    self.log = folder / "calls"
    for name in ("gcloud", "kubectl", "sbatch", "srun", "scontrol"):
      self.stand_in(name, "exit 99")

  def stand_in(self, name: str, program: str) -> None:
    path = self.programs / name
    path.write_text(f'#!/bin/bash\necho "{name} $*" >>{self.log}\n{program}\n')
    path.chmod(0o755)

  def calls(self) -> list[str]:
    return self.log.read_text().splitlines() if self.log.exists() else []

  def run(self, script: str | pathlib.Path, *arguments: str, **environment: str):
    basic = {
      "PATH": f"{self.programs}:/usr/bin:/bin",
      "HOME": str(self.home),
      "TMPDIR": "/tmp",
      "PAUSE": "0",
    }
    return subprocess.run(
      ["bash", str(LAUNCH / script), *arguments],
      env=basic | environment,
      cwd=ROOT,
      capture_output=True,
      text=True,
      timeout=30,
    )

  def plan(self, script: str, *arguments: str, **environment: str) -> list[list[str]]:
    """The commands of a dry run, as words; nothing may have been called."""
    done = self.run(script, *arguments, **environment)
    assert done.returncode == 0 and not done.stderr, done.stderr
    assert not self.calls()
    return [shlex.split(line, comments=True) for line in done.stdout.splitlines()]


@pytest.fixture
def shell(tmp_path):
  return Shell(tmp_path)


def refused(done, *words: str) -> None:
  """In one line, with exit code 2."""
  assert done.returncode == 2, (done.stdout, done.stderr)
  assert done.stderr.count("\n") == 1 and all(word in done.stderr for word in words), done.stderr
