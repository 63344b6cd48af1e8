"""A disk that is full or read-only ends a run in one line, and loses nothing."""

import errno
import os
import subprocess
import sys

import pytest

from dmmd_jax import storage
from tests.conftest import ONE_DEVICE
from tests.test_training import TOY, saved_steps

STATUS = (
  'RESOURCE_EXHAUSTED: Error writing local file "/runs/mine/checkpoints/14.orbax-checkpoint-tmp/x":'
  ' Failed to write 3 bytes to file 13: No space left on device [os_error_code="28"]'
)


def raised_from(cause):
  try:
    raise RuntimeError("in the background") from cause
  except RuntimeError as error:
    return error


@pytest.mark.parametrize(
  ("error", "line"),
  [
    (
      OSError(errno.ENOSPC, "x", "/runs/mine/a"),
      "cannot use /runs/mine/a: No space left on device",
    ),
    (OSError(errno.EDQUOT, "x"), "cannot use /runs/mine: Disk quota exceeded"),
    (IsADirectoryError(errno.EISDIR, "x", "/a/b.md"), "cannot use /a/b.md: Is a directory"),
    (FileExistsError(errno.EEXIST, "x", "/a/damaged"), "cannot use /a/damaged: File exists"),
    (raised_from(OSError(errno.EROFS, "x", "/a")), "cannot use /a: Read-only file system"),
    (ValueError(STATUS), "cannot use /runs/mine/checkpoints/14: No space left on device"),
    (RuntimeError("/runs/mine/events.1; Permission denied"), "cannot use /runs/mine: Permission"),
  ],
)
def test_an_error_of_the_storage_is_one_line(error, line):
  said = storage.trouble(error, "/runs/mine")
  assert said.startswith(line) and "the same command goes on" in said and "\n" not in said


@pytest.mark.parametrize("error", [ValueError("shapes differ"), FileNotFoundError(2, "x", "/a")])
def test_a_mistake_in_the_program_is_none(error):
  assert storage.trouble(error, "/runs/mine") == ""


# A disk with room for the small files of a checkpoint alone, in KiB; needs no rights.
SMALL_DISK = ["bash", "-c", 'ulimit -f 20 && exec "$@"', "bash"]


def test_a_full_disk_ends_a_run_in_one_line(tmp_path):
  args = [*TOY, "--config.phases=('teacher',)", "--config.teacher.num_steps=30"]
  done = subprocess.run(
    [*SMALL_DISK, sys.executable, "-m", "dmmd_jax.main", *args, f"--workdir={tmp_path / 'run'}"],
    capture_output=True,
    text=True,
    env=os.environ | ONE_DEVICE | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    timeout=200,
  )
  assert done.returncode == 1, done.stderr
  lines = [line for line in done.stderr.splitlines() if line and not line.startswith("teacher:")]
  assert lines == [
    f"dmmd_jax: cannot use {tmp_path}/run/teacher/checkpoints/7: File too large. Once that is"
    " mended the same command goes on from the last checkpoint"
  ]
  assert saved_steps(tmp_path / "run" / "teacher") == []
  assert not (tmp_path / "run" / "lock").exists()
