"""Damage to what a phase has left: made again where that can be, one line where it cannot."""

import pytest

from dmmd_jax import integrity, records
from dmmd_jax.config import ConfigError
from tests.test_records import digits, is_complete, leave, whole


def test_a_training_phase_without_its_last_checkpoint_is_not_complete(tmp_path):
  config = digits()
  folder = leave(config, tmp_path, "teacher")
  checkpoints = folder / "checkpoints"
  last = checkpoints / str(config.teacher.num_steps)
  last.rename(checkpoints / f"{last.name}.damaged")
  assert not is_complete(config, tmp_path, "teacher")
  last.write_text("a file is no checkpoint")
  assert not is_complete(config, tmp_path, "teacher")


@pytest.mark.parametrize("contents", ["", "{", "[]", '{"config": 1, "inputs": {}}', "\x00\xff"])
def test_a_damaged_config_is_one_line(tmp_path, contents):
  folder = leave(digits(), tmp_path, "teacher", finished=False)
  (folder / "config.json").write_text(contents)
  with pytest.raises(ConfigError, match=r"config.json is damaged") as error:
    records.check(digits(), tmp_path)
  assert "\n" not in str(error.value)


def test_a_model_with_a_damaged_file_is_made_again_here_and_refused_elsewhere(tmp_path):
  mine, config = tmp_path / "mine", digits()
  theirs = whole(tmp_path / "theirs", config)
  found = records.find_model(theirs, "teacher")
  assert found.identity.keys() == {"config", "inputs", "step", "digest", "finished"}
  (theirs / "teacher" / "checkpoints" / "2400" / "array").write_text("cut")
  assert not is_complete(config, theirs, "teacher")
  damage = "checkpoints/2400/array has 3 bytes instead of 6"
  assert records.find_damaged_file(theirs / "teacher") == damage
  assert all(records.find_damaged_file(theirs / x) == "" for x in ("distill", "evaluate", "none"))
  records.check(config, theirs)
  reads = digits(phases=("distill",), distill__teacher_workdir=str(theirs))
  with pytest.raises(ConfigError) as error:
    records.check(reads, mine)
  assert str(error.value) == (
    f"the teacher in {theirs}/teacher is damaged ({damage}); run"
    " the phase 'teacher' there again, which goes on from the last undamaged checkpoint"
  )
  (theirs / "teacher" / "checkpoints" / "2400").rename(theirs / "teacher" / "checkpoints" / "800")
  assert records.find_damaged_file(theirs / "teacher") == ""
  with pytest.raises(ConfigError, match=r"last checkpoint is of step 800, expected that of step"):
    records.check(reads, mine)
  records.check(reads, mine, unfinished=True)


def test_files_are_no_part_of_what_a_model_is(tmp_path):
  workdir, config = whole(tmp_path, digits()), digits()
  folder = workdir / "teacher" / "checkpoints" / "2400"
  (folder / "array").rename(folder / "another_name")
  record = integrity.read_json(workdir / "teacher" / "record.json")
  record["result"]["files"] = integrity.by_size(workdir / "teacher", "checkpoints/2400")
  integrity.write_json(workdir / "teacher" / "record.json", record)
  assert all(is_complete(config, workdir, phase) for phase in config.phases)


def test_records_of_before_files_were_noted_stay_complete(tmp_path):
  workdir, config = whole(tmp_path, digits()), digits()
  for phase in config.phases:
    record = integrity.read_json(workdir / phase / "record.json")
    files = record["result"].pop("files")
    if phase == "evaluate":
      record["result"]["sha256"] = files["results.json"]
    integrity.write_json(workdir / phase / "record.json", record)
  assert all(is_complete(config, workdir, phase) for phase in config.phases)
  (workdir / "evaluate" / "results.json").write_text("[]\n")
  assert not is_complete(config, workdir, "evaluate")


def test_a_damaged_record_is_none(tmp_path):
  (leave(digits(), tmp_path, "teacher") / "record.json").write_text("{}")
  assert not is_complete(digits(), tmp_path, "teacher")
  with pytest.raises(ConfigError, match="not finished"):
    records.find_model(tmp_path, "teacher")


def test_a_file_in_the_place_of_a_phase_is_one_line(tmp_path):
  for phase in ("teacher", "distill", "evaluate"):
    workdir = tmp_path / phase
    workdir.mkdir()
    (workdir / phase).write_text("")
    with pytest.raises(ConfigError, match=rf"{phase} is a file; expected the folder of a phase"):
      records.check(digits(), workdir)
