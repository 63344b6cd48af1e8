import os
import platform
import subprocess
import sys

import pytest

# Page faults of ten arrays of 200 MB, each freed before the next is made.
FAULTS = """
import resource
from dmmd_jax import heap
kept = heap.keep_freed_memory()
import numpy as np
def make():
  np.ones(25_000_000)
make()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
  make()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(**environment):
  plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
  found = subprocess.run(
    [sys.executable, "-c", FAULTS],
    env=plain | environment,
    stdout=subprocess.PIPE,
    text=True,
    check=True,
  )
  kept, faults = found.stdout.split()
  return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_freed_memory_is_used_again():
  kept, faults = page_faults()
  assert kept and faults < 500


def test_a_user_who_says_how_to_allocate_is_obeyed():
  kept, faults = page_faults(MALLOC_MMAP_THRESHOLD_="131072")
  assert not kept and faults > 500
