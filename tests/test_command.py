"""What the commands share."""

import argparse
import os
import subprocess
import sys

import pytest

from dmmd_jax import command


@pytest.mark.parametrize("text", ["0", "-1", "11", "nan", "inf", "1.5", "1e1", "", "ten"])
def test_numbers_out_of_range_are_refused(text):
  with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to 10"):
    command.number(int, 1, 10)(text)
  if text not in ("1.5", "1e1"):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 1 to 10"):
      command.number(float, 1, 10)(text)


def test_numbers_in_range_are_themselves():
  assert [command.number(int, 1, 10)(x) for x in ("1", "10")] == [1, 10]
  assert command.number(float, 1e-6, 1)("1e-6") == 1e-6


def test_a_message_is_one_line_without_escapes(capsys):
  with pytest.raises(SystemExit):
    command.fail("it", f"broken:\n  {'a' + chr(10) + chr(39) + chr(34)!r}")
  assert capsys.readouterr().err == "it: broken: 'a '\"'\n"


def test_a_reader_that_leaves_and_ctrl_c_leave_no_traceback():
  program = [
    sys.executable, "-c",
    "import os, signal\nfrom dmmd_jax import command\n"
    "command.run(lambda: os.kill(os.getpid(), signal.SIGINT))",
  ]  # fmt: skip
  done = subprocess.run(program, capture_output=True, text=True, timeout=60)
  assert done.returncode == 130 and done.stderr == "interrupted\n"
  read, write = os.pipe()
  os.close(read)
  program[2] = "from dmmd_jax import command; command.run(lambda: print(9))"
  done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
  assert done.returncode == 141 and done.stderr == ""
