"""Where a run may keep what it leaves, and files that are whole or not there."""

import os
import pathlib

import pytest

from dmmd_jax import workdir as workdirs
from dmmd_jax.config import ConfigError


def test_a_home_directory_is_found(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  assert os.fspath(workdirs.locate("~/runs/mine", write=True)) == f"{tmp_path}/runs/mine"
  assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("write", [False, True])
def test_a_folder_that_cannot_be_is_one_line(tmp_path, write):
  (tmp_path / "file").write_text("")
  (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
  for name, message in [
    ("file", "is a file"),
    ("file/run", "is below .*file, which is a file"),
    ("dangling", "is a file"),
    ("a\0b", "is no path"),
  ]:
    with pytest.raises(ConfigError, match=message) as error:
      workdirs.locate(str(tmp_path / name), write)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_to_is_one_line_and_can_be_read():
  """For root, too, who may do all that the file system can: this one makes no files."""
  workdirs.locate("/proc/self/run")
  with pytest.raises(ConfigError, match=r"/proc/self cannot be written to \("):
    workdirs.locate("/proc/self/run", write=True)


@pytest.mark.parametrize("stray", ["500", "7.orbax-checkpoint-tmp-1", "9.damaged", "x"])
def test_only_folders_of_steps_are_checkpoints(tmp_path, stray):
  checkpoints = tmp_path / "checkpoints"
  (checkpoints / "4").mkdir(parents=True)
  (checkpoints / stray).write_text("a file")
  assert workdirs.latest_step(tmp_path) == 4
  assert workdirs.latest_step(tmp_path / "absent") == 0


def test_checkpoints_that_are_a_file_are_none(tmp_path):
  (tmp_path / "checkpoints").write_text("")
  assert workdirs.latest_step(tmp_path) == 0


def test_sizes_are_those_of_all_files_below_a_folder(tmp_path):
  (tmp_path / "run" / "empty").mkdir(parents=True)
  (tmp_path / "elsewhere").mkdir()
  (tmp_path / "elsewhere" / "b").write_text("12")
  (tmp_path / "run" / "a").write_text("")
  (tmp_path / "run" / "linked").symlink_to(tmp_path / "elsewhere")
  (tmp_path / "run" / "dangling").symlink_to(tmp_path / "nowhere")
  assert workdirs.sizes(tmp_path / "run") == {"a": 0, "linked/b": 2}
  assert workdirs.sizes(tmp_path / "nowhere") == {}


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
  path = tmp_path / "record.json"
  workdirs.write_whole(path, "before")

  def fail(*_):
    assert path.read_text() == "before"
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(os, "fsync", fail)
  with pytest.raises(OSError, match="No space"):
    workdirs.write_whole(path, "after")
  assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]
  monkeypatch.undo()
  workdirs.write_whole(pathlib.Path(path), "after")
  assert path.read_text() == "after"
