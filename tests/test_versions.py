"""What made a result, as it is recorded."""

import re

import jax

from dmmd_jax import versions


def test_the_commit_is_named_only_of_the_packages_own_repository(tmp_path):
  found = versions.made_by("a device")
  assert found["device"] == "a device" and found["jax"] == jax.__version__ and found["python"]
  assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
  assert versions._commit(tmp_path) is None


def test_that_code_may_have_changed_is_said_where_it_may(monkeypatch):
  a, b, dirty = 40 * "a", 40 * "b", f"{40 * 'a'}-dirty"
  said = {
    (a, a): "",
    (None, b): "",
    (a, None): "",
    (a, b): " (by the code of aaaaaaa; it is now that of bbbbbbb)",
    (dirty, dirty): " (by the code of aaaaaaa-dirty; it is now that of aaaaaaa-dirty)",
  }
  for (then, now), text in said.items():
    monkeypatch.setattr(versions, "_versions", lambda now=now: {"commit": now})
    assert versions.changed_since(then) == text
