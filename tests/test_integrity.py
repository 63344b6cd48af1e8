"""Damage to files is told by notes of them, and by the checksum that a JSON file holds."""

import pytest

from dmmd_jax import integrity

VALUE = {"depends": {"seed": 0}, "result": {"step": 12}}


def emptied(path):
  path.write_bytes(b"")


def edited(path):
  path.write_bytes(path.read_bytes().replace(b"a", b"b"))


def deleted(path):
  path.unlink()


def in_the_way(path):
  path.unlink()
  path.mkdir()


@pytest.mark.parametrize(
  ("damage", "by_size", "by_contents"),
  [
    (emptied, "part/x has 0 bytes instead of 3", "part/x has been changed"),
    (edited, "", "part/x has been changed"),
    (deleted, "part/x is missing", "part/x is missing"),
    (in_the_way, "part/x is missing", "part/x is missing"),
  ],
)
def test_a_noted_file_that_is_not_as_it_was_left_is_named(tmp_path, damage, by_size, by_contents):
  for name in ("part/x", "part/y/z", "parted"):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("aaa")
  notes = [
    integrity.by_size(tmp_path, "part"),
    integrity.by_contents(tmp_path, ["part/x", "part/y/z"]),
  ]
  assert [set(n) for n in notes] == 2 * [{"part/x", "part/y/z"}]
  (tmp_path / "parted").write_text("no matter")
  (tmp_path / "part" / "stray").write_text("")
  assert [integrity.find_damage(tmp_path, n) for n in notes] == ["", ""]
  damage(tmp_path / "part" / "x")
  assert [integrity.find_damage(tmp_path, n) for n in notes] == [by_size, by_contents]


def test_a_folder_that_is_gone_lacks_its_files(tmp_path):
  assert integrity.find_damage(tmp_path / "nowhere", {"a": 1}) == "a is missing"
  assert integrity.find_damage(tmp_path / "nowhere", {}) == ""


def test_json_is_read_as_it_was_written(tmp_path):
  integrity.write_json(tmp_path / "a.json", VALUE)
  assert integrity.read_json(tmp_path / "a.json") == VALUE
  assert integrity.read_json(tmp_path / "b.json") is None


@pytest.mark.parametrize("contents", ["", "[]", "3", "{}", "[" * 100_000, '{"checksum": 1}', None])
def test_damaged_or_edited_json_is_none(tmp_path, contents):
  path = tmp_path / "a.json"
  integrity.write_json(path, VALUE)
  path.write_text(path.read_text().replace("12", "13") if contents is None else contents)
  assert integrity.read_json(path) is None
