"""Sixty of the cases that `make fuzz` runs by the hundred, and that the judge of them sees."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tests import server
from tests.fuzz import cases, damage
from tests.fuzz.fuzzer import Fuzzer
from tests.server import Outcome

SUITE = {"config": 46, "file": 11, "damage": 3}


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
  with Fuzzer(tmp_path_factory.mktemp("fuzz"), seed=1) as fuzzer:
    yield fuzzer


@pytest.mark.parametrize(
  ("what", "number"), [(what, i) for what, count in SUITE.items() for i in range(count)]
)
def test_what_is_wrong_is_refused_in_one_line_or_mended(fuzzer, what, number):
  answer = fuzzer.case(what, number)
  assert not answer["complaints"], json.dumps(answer, indent=1)


def test_a_fork_answers_as_a_process_of_its_own_does(fuzzer, tmp_path):
  args = ("--config=configs/digits_dmmd.py", "--config.teacher.num_steps=many")
  case = cases.Case("", args, ("num_steps",))
  found, forked = cases.refusal(case, tmp_path, fuzzer.server("config").run)
  command = [sys.executable, "-m", case.module, *case.arguments(tmp_path)]
  fresh = subprocess.run(command, capture_output=True, text=True)
  assert not found and (fresh.returncode, fresh.stderr) == (forked.code, forked.err)


def test_a_command_that_hangs_is_ended():
  sleeping = subprocess.Popen(["sleep", "600"], start_new_session=True)
  found = server._wait(sleeping.pid, 0.2)
  assert found["code"] is None and found["seconds"] > 0.1


@pytest.mark.parametrize(
  ("outcome", "complaint"),
  [
    (Outcome(None, "", "", 12.0), "runs after 12 s"),
    (Outcome(1, "", "Traceback (most recent call last):\n", 0.1), "traceback"),
    (Outcome(0, "", "", 0.1), "exit code 0"),
    (Outcome(2, "", "dmmd_jax: a\nb\n", 0.1), "2 lines"),
    (Outcome(2, "", "usage: x\n", 0.1), "not the program's name first"),
    (Outcome(2, "", "dmmd_jax: no \\'x\\'\n", 0.1), "escapes in the message"),
    (Outcome(2, "", "dmmd_jax: a\n", 4.0), "4.0 s of CPU"),
    (Outcome(2, "", "dmmd_jax: b is 3\n", 0.1), "message names none of c"),
  ],
)
def test_the_judge_sees_what_is_wrong_with_an_answer(outcome, complaint, tmp_path):
  found, _ = cases.refusal(cases.Case("", (), ("c",), seconds=3.0), tmp_path, lambda *_: outcome)
  assert complaint in found


def test_the_judge_sees_what_was_written_and_what_was_changed(tmp_path):
  case = cases.Case("", (), ("c",), make=lambda folder: (folder / "a").write_text("1"))
  refused = Outcome(2, "", "dmmd_jax: c\n", 0.1)

  def run(*_):
    (tmp_path / "a").write_text("2")
    return refused

  assert cases.refusal(case, tmp_path, run)[0] == ["changed its inputs"]
  assert not cases.refusal(case, tmp_path, lambda *_: refused)[0]
  (tmp_path / "run").mkdir()
  assert cases.refusal(case, tmp_path, lambda *_: refused)[0] == ["wrote a workdir"]


def test_the_judge_sees_other_rows_and_other_parameters(fuzzer):
  whole = fuzzer.undamaged()
  assert not damage.differences(whole, whole.workdir)
  right = rows, parameters, shown = whole.result
  changed = np.frombuffer(parameters["distill"][0], np.uint8) + 1
  whole.result = rows[1:], parameters | {"distill": [changed.tobytes()]}, shown | {"figure.png"}
  try:
    found = damage.differences(whole, whole.workdir)
  finally:
    whole.result = right
  assert [complaint.removeprefix("exit code 0 ") for complaint in found] == [
    "with other rows",
    "with other parameters of distill",
    "without figure.png",
  ]
