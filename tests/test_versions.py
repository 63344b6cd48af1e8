"""What made a result, as it is recorded."""

import re

import jax

from dmmd_jax import versions


def test_the_commit_is_named_only_of_the_packages_own_repository(tmp_path):
  found = versions.made_by("a device")
  assert found["device"] == "a device" and found["jax"] == jax.__version__ and found["python"]
  assert found["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found["commit"])
  assert versions._commit(tmp_path) is None
