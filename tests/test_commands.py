"""`python -m dmmd_jax` lists the commands, and runs them by the name that they were called by."""

import os
import subprocess
import sys

import pytest

from dmmd_jax import __main__ as commands


def python(program, *args, cwd="."):
  return subprocess.run(
    [sys.executable, "-c", program, *args],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=os.environ | {"PYTHONPATH": os.getcwd()},
    timeout=120,
  )


def test_the_list_has_every_command_and_an_example_of_it_and_imports_nothing_heavy():
  program = (
    "import sys\nfrom dmmd_jax import __main__ as commands\ncommands.main([])\n"
    "print({'absl', 'jax', 'ml_collections', 'numpy'} & {*sys.modules})"
  )
  done = python(program)
  *lines, imported = done.stdout.splitlines()
  assert imported == "set()", done.stderr
  for name, command in commands.COMMANDS.items():
    assert f"  {name:<7}  {command.sentence}" in lines
    assert f"  python -m dmmd_jax {name} {command.example}".rstrip() in lines
  assert max(map(len, lines)) <= 100


def test_examples_fit_their_commands_which_go_by_the_name_they_were_called_by(tmp_path):
  """In an empty folder each of them ends in one line that misses a file; train would go on."""
  program = (
    "import sys\nfrom dmmd_jax import __main__ as commands\n"
    "for name in sys.argv[1:]:\n"
    "  args = ['--config=absent'] if name == 'train' else commands.COMMANDS[name].example.split()\n"
    "  try: commands.main([name, *args])\n"
    "  except SystemExit as stopped: print(name, stopped.code, 'jax' in sys.modules, flush=True)"
  )
  last = ["mmd", "train"]  # the package of the one is jax; absl takes over a process for the other
  names = [name for name in commands.COMMANDS if name not in last] + last
  done = python(program, *names, cwd=tmp_path)
  stopped = [line.split() for line in done.stdout.splitlines()]
  assert stopped == [[name, "2", str(name in last)] for name in names], done.stderr
  *errors, of_train = done.stderr.splitlines()
  for name, error in zip(names[:-1], errors, strict=True):
    assert error.startswith(f"dmmd_jax {name}: ") and "does not exist" in error
  assert of_train.startswith("dmmd_jax: no config file 'absent'")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    (
      "smaple",
      "no command 'smaple'; expected one of train, convert, runs, compare, sample, metrics, mmd;",
    ),
    ("smaple", "did you mean sample?"),
    ("--config=x", "no command '--config=x'; expected one of train"),
  ],
)
def test_an_unknown_command_is_one_line_with_the_nearest(capsys, name, message):
  with pytest.raises(SystemExit) as stopped:
    commands.main([name, "--workdir=x"])
  printed = capsys.readouterr()
  assert stopped.value.code == 2 and not printed.out
  assert message in printed.err and printed.err.count("\n") == 1


def test_training_is_called_main_too(monkeypatch):
  ran = []
  monkeypatch.setattr(commands.runpy, "run_module", lambda module, run_name: ran.append(module))
  monkeypatch.setattr(sys, "argv", [])
  for name in ("main", "train"):
    commands.main([name, "--config=x"])
    assert sys.argv == [f"python -m dmmd_jax {name}", "--config=x"]
  assert ran == ["dmmd_jax.main"] * 2
