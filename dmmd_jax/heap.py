"""How the C library allocates. Pure Python, without numpy."""

import ctypes
import os
import platform

# Options of mallopt(3): one heap for all threads, as only its arrays can be of any size; arrays up
# to 2 GB come from it; as much may lie free at its end.
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1
_OPTIONS = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 2**31 - 1, _TRIM_THRESHOLD: 2**31 - 1}


def keep_freed_memory() -> bool:
  """Has glibc use freed memory again rather than give it back; says whether it does.

  XLA's CPU backend allocates the temporary arrays of every step anew. glibc gives large ones back
  to the system each time, which then clears all of their pages: a quarter of the time of a step. To
  be called before there are threads, which numpy starts. Other C libraries are left alone, and so
  is one that the user has told how to allocate (`MALLOC_...`).
  """
  told = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
  if platform.libc_ver()[0] != "glibc" or told:
    return False
  libc = ctypes.CDLL(None)
  taken = [libc.mallopt(option, value) for option, value in _OPTIONS.items()]
  return all(taken)
