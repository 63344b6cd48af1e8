"""Damage: noticed, set aside, and trained anew to the same bits."""

import dataclasses
import json
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest
from etils import epath

from dmmd_jax import checkpoints, parallel, saved_state, training
from dmmd_jax.digest import digest
from tests import test_training
from tests.test_training import RUN, equal, saved_steps


def job():
  """With an array that is large enough for a file of its own."""
  small = test_training.job()

  def init(key, given):
    return small.init(key, given) | {"table": jax.random.normal(key, (128, 64))}

  def step(state, batch, key):
    table = state.pop("table")
    state, metrics = small.step(state, batch, key)
    return state | {"table": table + state["model"].params["kernel"].sum()}, metrics

  return dataclasses.replace(small, init=init, step=step)


def two_devices():
  return jax.sharding.Mesh(np.array(jax.devices()[:2]).reshape(2, 1, 1), parallel.AXES)


def like(state):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A finished phase with checkpoints of steps 8 and 10, and its last state."""
  directory = tmp_path_factory.mktemp("whole")
  return directory, training.train(job(), directory, RUN, two_devices())


def largest(step):
  """The file with the values of the arrays."""
  files = list((step / "default" / "ocdbt.process_0" / "d").iterdir())
  return max(files, key=lambda path: path.stat().st_size)


def flip(path):
  """Sixteen bytes: of a compressed file a single one, in the head of a block, may say nothing."""
  content = bytearray(path.read_bytes())
  middle = len(content) // 2
  content[middle : middle + 16] = [byte ^ 255 for byte in content[middle : middle + 16]]
  path.write_bytes(content)


def cut(path):
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_the_one_before(step):
  shutil.rmtree(step)
  shutil.copytree(step.with_name("8"), step)


def as_file(step):
  shutil.rmtree(step)
  step.write_text("")


DAMAGES = {
  "a_value": lambda step: flip(largest(step)),
  "cut": lambda step: cut(largest(step)),
  "gone": lambda step: largest(step).unlink(),
  "names": lambda step: cut(step / "default" / "_METADATA"),
  "arrays": lambda step: (step / "default" / "array_metadatas" / "process_0").write_text(""),
  "index": lambda step: flip(step / "default" / "manifest.ocdbt"),
  "digest": lambda step: (step / "_CHECKPOINT_METADATA").write_text(""),
  "no_digest": lambda step: (step / "_CHECKPOINT_METADATA").unlink(),
  "emptied": lambda step: (shutil.rmtree(step), step.mkdir()),
  "another_step": as_the_one_before,
  "a_file": as_file,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_used(
  whole, damage, tmp_path, capfd
):
  directory, expected = tmp_path / "run", whole[1]
  shutil.copytree(whole[0], directory)
  abstract = like(expected)
  folder = directory / "checkpoints"
  damage(folder / "10")
  step, state = checkpoints.restore_newest(epath.Path(folder), abstract, {})
  assert step == 8 and int(state["seen"]) == 8
  assert saved_steps(directory) == [8] and (directory / "damaged" / "10").exists()
  said = capfd.readouterr().err
  assert said.count("\n") == (damage is not as_file), said
  assert damage is as_file or (
    "10 (" in said and "goes on from step 8" in said and "\\" not in said
  )


def test_training_goes_on_from_before_the_damage_and_ends_bit_identical(whole, tmp_path):
  directory = tmp_path / "run"
  shutil.copytree(whole[0], directory)
  folder = directory / "checkpoints"
  flip(largest(folder / "10"))
  (folder / "12").write_text("no checkpoint")
  (folder / "9 (copy)").mkdir()
  (folder / "notes.txt").write_text("stray")
  assert equal(whole[1], training.train(job(), directory, RUN, two_devices()))
  assert saved_steps(directory) == [8, 10]
  assert {path.name for path in (directory / "damaged").iterdir()} == {"10", "12"}
  assert {"notes.txt", "9 (copy)"} < {path.name for path in folder.iterdir()}


def test_with_no_other_checkpoint_the_phase_starts_again(whole, tmp_path, capfd):
  directory = tmp_path / "run"
  shutil.copytree(whole[0], directory)
  for step in (8, 10):
    flip(largest(directory / "checkpoints" / str(step)))
  (directory / "damaged" / "10").mkdir(parents=True)  # of another time: nothing is written over
  assert equal(whole[1], training.train(job(), directory, RUN, two_devices()))
  assert "10 (" in (said := capfd.readouterr().err) and "8 (" in said
  assert "the phase starts again" in said
  assert {path.name for path in (directory / "damaged").iterdir()} == {"10", "10.1", "8"}


@pytest.mark.parametrize("names", [("seen",), ("model", "seen", "table", "more")])
def test_another_state_is_no_damage(whole, tmp_path, names):
  shutil.copytree(whole[0], tmp_path / "run")
  folder = epath.Path(tmp_path / "run" / "checkpoints")
  abstract = like(whole[1])
  other = {name: abstract.get(name, abstract["seen"]) for name in names}
  with pytest.raises(checkpoints.CheckpointError, match="other names, shapes or dtypes") as error:
    checkpoints.restore_newest(folder, other, {})
  assert "\n" not in str(error.value) and saved_steps(tmp_path / "run") == [8, 10]


def test_a_disk_that_is_away_is_no_damage(whole, tmp_path, monkeypatch):
  """What orbax cannot read is damaged only if its files can be read."""
  shutil.copytree(whole[0], tmp_path / "run")
  folder = epath.Path(tmp_path / "run" / "checkpoints")
  largest(tmp_path / "run" / "checkpoints" / "10").unlink()
  away = OSError(5, "Input/output error")

  def fail(path):
    raise away

  monkeypatch.setattr(saved_state, "_read_files", fail)
  abstract = like(whole[1])
  with pytest.raises(OSError, match="Input/output"):
    checkpoints.restore_newest(folder, abstract, {})
  assert saved_steps(tmp_path / "run") == [8, 10]


def renote(step, change):
  """Changes the notes in a checkpoint as `change` says."""
  path = step / "_CHECKPOINT_METADATA"
  metadata = json.loads(path.read_text())
  metadata["custom_metadata"] = change(metadata["custom_metadata"])
  path.write_text(json.dumps(metadata))


def test_a_checkpoint_of_before_there_were_notes_is_read(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  renote(folder / "10", lambda notes: {})
  step, state = checkpoints.restore_newest(epath.Path(folder), like(whole[1]), {})
  assert step == 10 and equal(whole[1], state)


def test_a_checkpoint_with_one_digest_of_all_is_read_if_it_is_that(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  one_digest = {"digest": digest(whole[1]), "layout": saved_state.layout(whole[1])}
  for step in (8, 10):  # of 8 it is not the digest
    renote(folder / str(step), lambda notes: one_digest)
  abstract = like(whole[1])
  assert checkpoints.restore_newest(epath.Path(folder), abstract, {})[0] == 10
  part = {"table": abstract["table"]}
  assert equal({"table": whole[1]["table"]}, checkpoints.restore_part(folder, 10, part))
  checkpoints.set_aside(folder, 10)
  assert checkpoints.restore_newest(epath.Path(folder), abstract, {}) == (0, None)


def test_notes_that_have_been_changed_are_damage(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  for step, change in [
    (10, lambda notes: notes | {"layout": "of another state"}),
    (8, lambda notes: notes | {"origin": {"seed": 1}}),
  ]:
    renote(folder / str(step), change)
  assert checkpoints.restore_newest(epath.Path(folder), like(whole[1]), {}) == (0, None)


def test_a_checkpoint_of_another_run_is_refused(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "run")
  origin = {"config": {"seed": 0}, "inputs": {"data": {"fingerprint": "a"}}}
  folder = epath.Path(tmp_path / "run" / "checkpoints")
  notes = saved_state.make_notes(10, whole[1], origin)
  renote(tmp_path / "run" / "checkpoints" / "10", lambda _: notes)
  assert checkpoints.restore_newest(folder, like(whole[1]), origin)[0] == 10
  other = {"config": {"seed": 1}, "inputs": {"data": {"fingerprint": "b"}}}
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.restore_newest(folder, like(whole[1]), other)
  assert str(error.value) == (
    f"checkpoint 10 of {folder} is of another run (config.seed: 0 -> 1; inputs.data.fingerprint:"
    " a -> b); put back that of this run, or move it away to go on from the one before"
  )
  assert saved_steps(tmp_path / "run") == [8, 10]


@pytest.mark.parametrize(("size", "gigabytes"), [(10**9 - 1, 1), (10**9, 2), (2 * 10**9 + 1, 3)])
def test_what_is_written_at_once_is_more_than_any_part(size, gigabytes):
  """orbax refuses a part of an array that is not smaller than its limit."""
  part = lambda size: types.SimpleNamespace(data=types.SimpleNamespace(nbytes=size))
  array = types.SimpleNamespace(addressable_shards=[part(7), part(size)])
  assert checkpoints.least_at_once({"a": array}) == gigabytes


def test_a_file_in_place_of_the_checkpoints_is_one_line(tmp_path):
  (tmp_path / "checkpoints").write_text("")
  with pytest.raises(checkpoints.CheckpointError, match="checkpoints is a file; expected a folder"):
    training.train(job(), tmp_path, RUN, two_devices())


def test_a_part_of_a_damaged_checkpoint_is_one_line(whole, tmp_path):
  shutil.copytree(whole[0], tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  kernel = whole[1]["model"].params["kernel"]
  part = {name: whole[1][name] for name in ("model", "table")}
  abstract = like(part)
  read = checkpoints.restore_part(epath.Path(folder), 8, abstract)
  assert not np.array_equal(read["model"].params["kernel"], kernel)  # of step 8, as asked
  for damaged in (10, 12):
    if damaged == 10:
      largest(folder / "10").unlink()
    with pytest.raises(checkpoints.CheckpointError, match=f"checkpoint {damaged} of") as error:
      checkpoints.restore_part(epath.Path(folder), damaged, abstract)
    assert "run its phase again" in str(error.value) and "\n" not in str(error.value)
  with pytest.raises(checkpoints.CheckpointError, match=r"8 of .* is damaged \(it has no more\)"):
    checkpoints.restore_part(epath.Path(folder), 8, {"more": abstract["table"]})
  notes = saved_state.make_notes(8, whole[1], {})
  renote(folder / "8", lambda _: notes)
  with pytest.raises(checkpoints.CheckpointError, match=r"8 of .* is damaged \(its digest is not"):
    checkpoints.restore_part(epath.Path(folder), 8, {"table": abstract["table"]})
  checkpoints.set_aside(epath.Path(folder), 10)
  assert saved_steps(pathlib.Path(tmp_path / "run")) == [8]


def test_a_part_of_another_shape_is_no_damage(whole):
  """Such as the network of another version: its phase is not to run again."""
  folder, table = epath.Path(whole[0] / "checkpoints"), whole[1]["table"]
  larger = jax.ShapeDtypeStruct((130, 64), table.dtype, sharding=table.sharding)
  with pytest.raises(checkpoints.CheckpointError) as error:
    checkpoints.restore_part(folder, 10, {"table": larger})
  assert not isinstance(error.value, checkpoints.DamagedModelError)
  assert "table of shape (128, 64), where this program has (130, 64)" in str(error.value)
  assert saved_steps(whole[0]) == [8, 10]
