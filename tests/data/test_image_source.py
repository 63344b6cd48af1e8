import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from dmmd_jax.data.image_source import ImageError, check_all


def test_the_first_of_several_broken_images_is_named(capsys):
  seen = []

  def read(i):
    seen.append(i)
    if i in (700, 701, 999):
      raise ImageError(f"image {i}")

  with pytest.raises(ImageError, match="image 700"):
    check_all(read, 1000, "reading")
  assert "\n" not in capsys.readouterr().err
  seen.clear()
  check_all(read, 600, "reading")
  assert sorted(seen) == list(range(600))


def test_processes_share_the_images_and_fail_together(monkeypatch):
  seen, gathered = [], []

  def read(i):
    seen.append(i)
    if i == 4:
      raise ImageError("image 4")

  def allgather(found):
    gathered.append(int(found))
    return np.array([4, found])

  monkeypatch.setattr(jax, "process_count", lambda: 2)
  monkeypatch.setattr(jax, "process_index", lambda: 1)
  monkeypatch.setattr(multihost_utils, "process_allgather", allgather)
  with pytest.raises(ImageError, match="image 4"):
    check_all(read, 10, "reading")
  assert seen == [1, 3, 5, 7, 9, 4] and gathered == [10]
