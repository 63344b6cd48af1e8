"""What the commands share."""

import argparse
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from dmmd_jax import cli


@pytest.mark.parametrize("text", ["0", "-1", "11", "nan", "inf", "1.5", "1e1", "", "ten"])
def test_numbers_out_of_range_are_refused(text):
  with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number from 1 to 10"):
    cli.number(int, 1, 10)(text)
  if text not in ("1.5", "1e1"):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a number from 1 to 10"):
      cli.number(float, 1, 10)(text)


def test_numbers_in_range_are_themselves():
  assert [cli.number(int, 1, 10)(x) for x in ("1", "10")] == [1, 10]
  assert cli.number(float, 1e-6, 1)("1e-6") == 1e-6


def test_an_array_is_read_from_both_kinds_of_files(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  tokens = np.arange(6).reshape(2, 3)
  np.save(tmp_path / "a.npy", tokens)
  np.savez(tmp_path / "one.npz", images=tokens)
  np.savez_compressed(
    tmp_path / "named.npz", nfe=8, model="student", tokens=tokens, real=tokens + 1
  )
  for name in ("a.npy", "one.npz", "named.npz"):
    np.testing.assert_array_equal(cli.load_array(f"~/{name}"), tokens)


def test_files_without_one_array_are_refused(tmp_path):
  np.savez(tmp_path / "several.npz", a=1, b=2)
  np.savez(tmp_path / "none.npz")
  np.savez(tmp_path / "objects.npz", tokens=np.array([{}]))
  with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
    file.writestr("tokens", "1 2 3")
  (tmp_path / "words.npz").write_text("1 2 3")
  np.savez(tmp_path / "damaged.npz", tokens=np.arange(1000))
  whole = (tmp_path / "damaged.npz").read_bytes()
  (tmp_path / "damaged.npz").write_bytes(whole[:500] + b"x" * 100 + whole[600:])
  for name, message in {
    "several": r"holds several arrays \(a, b\); expected one, or one that is named tokens",
    "none": "holds no array; expected one",
    "objects": r"cannot read .*objects.npz: it is text or of Python objects; expected a .npy",
    "words": r"cannot read .*words.npz: it is text or of Python objects; expected a .npy",
    "text": "cannot read .*: tokens in it is no array; expected",
    "damaged": "cannot read .*damaged.npz: ",
    "absent": "does not exist; expected a .npy or .npz file",
  }.items():
    with pytest.raises(ValueError, match=message):
      cli.load_array(str(tmp_path / f"{name}.npz"))


def test_a_message_is_one_line_without_escapes(capsys):
  with pytest.raises(SystemExit):
    cli.fail("it", f"broken:\n  {'a' + chr(10) + chr(39) + chr(34)!r}")
  assert capsys.readouterr().err == "it: broken: 'a '\"'\n"


def test_a_reader_that_leaves_and_ctrl_c_leave_no_traceback():
  program = [
    sys.executable, "-c",
    "import os, signal\nfrom dmmd_jax import cli\n"
    "cli.run(lambda: os.kill(os.getpid(), signal.SIGINT))",
  ]  # fmt: skip
  done = subprocess.run(program, capture_output=True, text=True, timeout=60)
  assert done.returncode == 130 and done.stderr == "interrupted\n"
  read, write = os.pipe()
  os.close(read)
  program[2] = "from dmmd_jax import cli; cli.run(lambda: print(9))"
  done = subprocess.run(program, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
  assert done.returncode == 141 and done.stderr == ""


def test_a_terminal_that_knows_less_than_unicode_shows_the_rest():
  program = "from dmmd_jax import cli; cli.run(lambda: print('1.5 ± 0.1'))"
  done = subprocess.run(
    [sys.executable, "-c", program],
    env=os.environ | {"PYTHONIOENCODING": "ascii"},
    capture_output=True,
    timeout=60,
  )
  assert done.stdout == b"1.5 ? 0.1\n", done.stderr


@pytest.mark.parametrize(
  ("called", "prog"),
  [("python -m dmmd_jax sample", "dmmd_jax sample"), ("dmmd_jax/sample.py", "dmmd_jax.sample")],
)
def test_a_parser_goes_by_the_name_that_it_was_called_by(capsys, monkeypatch, called, prog):
  monkeypatch.setattr(sys, "argv", [called])
  with pytest.raises(SystemExit):
    cli.Parser("dmmd_jax.sample", "Samples.").parse_args(["--bad"])
  assert capsys.readouterr().err == f"{prog}: unrecognized arguments: --bad\n"


def test_outputs_that_can_be_written_are_known_by_their_endings(tmp_path, monkeypatch):
  (tmp_path / "there.PNG").write_text("is overwritten")
  for name in ("there.PNG", "new.npz"):
    assert cli.find_output(f"{tmp_path}/{name}", (".png", ".npz"), "images").name == name
  monkeypatch.setenv("HOME", str(tmp_path))
  assert cli.find_output("~/x.png", (".png",), "curves") == tmp_path / "x.png"
  assert [path.name for path in tmp_path.iterdir()] == ["there.PNG"]
  assert (tmp_path / "there.PNG").read_text() == "is overwritten"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("x.txt", "images go to a file that ends in .png or .npz"),
    ("png", "images go to a file that ends in"),
    ("folder.png", "is no file"),
    ("nowhere/x.png", "there is no folder"),
    ("file/x.png", "there is no folder"),
    ("s3://bucket/x.png", "unknown storage"),
  ],
)
def test_outputs_that_cannot_be_written_are_refused(tmp_path, monkeypatch, name, message):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "folder.png").mkdir()
  (tmp_path / "file").touch()
  with pytest.raises(ValueError, match=message):
    cli.find_output(name, (".png", ".npz"), "images")


def test_a_folder_that_cannot_be_written_to_is_said(tmp_path, monkeypatch):
  def refuse(**_):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(cli.tempfile, "TemporaryFile", refuse)
  with pytest.raises(ValueError, match=r"cannot be written \(Permission denied\)"):
    cli.find_output(f"{tmp_path}/x.png", (".png",), "curves")
