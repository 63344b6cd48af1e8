"""What a read that fails leaves behind it is silent, and nothing else is."""

import asyncio
import gc
import logging
import warnings

import pytest

from dmmd_jax import saved_state


@pytest.mark.parametrize("kind", ["future", "task"])
@pytest.mark.parametrize(
  ("message", "is_heard"),
  [("NOT_FOUND: Error opening [tensorstore_spec='{}']", False), ("a mistake of ours", True)],
)
def test_errors_that_nobody_waits_for_are_heard_unless_they_are_of_a_read(
  caplog, kind, message, is_heard
):
  saved_state.hush()
  loop = asyncio.new_event_loop()

  async def fail():
    raise ValueError(message)

  if kind == "task":
    task = loop.create_task(fail())
    loop.run_until_complete(asyncio.wait([task]))
    del task
  else:
    loop.create_future().set_exception(ValueError(message))
  with caplog.at_level(logging.ERROR):
    gc.collect()
  loop.close()
  assert [message in record.message for record in caplog.records] == is_heard * [True]


def test_a_read_that_was_never_begun_is_silent(tmp_path, monkeypatch):
  async def one_of_many():
    pass

  def fail(*_):
    left = [one_of_many()]
    left.append(left)  # nothing but the collector frees it
    raise ValueError("garbled")

  (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
  monkeypatch.setattr(saved_state, "_restore_alone", fail)
  with warnings.catch_warnings(record=True) as heard:
    warnings.simplefilter("always")
    assert saved_state.read(tmp_path, {}) == (None, "garbled")
    gc.collect()
    one_of_many()
  assert [str(warning.message) for warning in heard] == [
    f"coroutine '{one_of_many.__qualname__}' was never awaited"
  ]
