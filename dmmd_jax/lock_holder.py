"""Which process holds a lock, and whether it lives. Pure Python."""

import datetime
import os
import pathlib
import socket
import uuid


def identity() -> dict[str, object]:
  """This process, as a lock names it: JSON."""
  return machine() | {
    "pid": os.getpid(),
    "started": _started(os.getpid()),
    "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
    "token": uuid.uuid4().hex,
  }


def machine() -> dict[str, object]:
  """Equal for processes that can see each other: containers share a boot, but not process ids."""
  try:
    boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    space = os.stat("/proc/self/ns/pid").st_ino
  except OSError:
    boot = space = None
  return {"host": socket.gethostname(), "boot": boot, "space": space}


def is_alive(holder: dict) -> bool:
  """Whether the process of this machine runs; its id may have been given to another since."""
  try:
    os.kill(holder["pid"], 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    pass  # another user's
  return _started(holder["pid"]) in (None, holder["started"])


def _started(pid: int) -> str | None:
  """When it has started, in ticks since boot; "" if it has ended, None if nobody may know."""
  try:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return None
  return "" if fields[0] in "ZX" else fields[19]
