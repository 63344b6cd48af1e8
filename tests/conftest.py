import gc
import os
import signal

import pytest

from tests.server import HEAVY, Server

# Programs here are small: to compile them quickly is worth more than that they run fast. The last
# two save a quarter of the time of the tests, measured with jaxlib 0.10.2.
QUICK = (
  "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
  " --xla_cpu_parallel_codegen_split_count=1"
)

# For processes of their own: one device compiles sooner than eight. They run the same programs
# again and again, of which the small ones, too, are compiled once.
ONE_DEVICE = {"XLA_FLAGS": QUICK, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

# Programs are lowered sooner without the place in the source of every operation.
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"

# Eight virtual devices, so that every test that shards really does.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count=8 {QUICK}"
)

# A shell starts programs in the background with Ctrl-C ignored, which those of the tests inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Files of more than a minute. They come first: one that comes last leaves a core without work.
_LONG = ("hosts", "notebooks", "main", "training", "fuzz", "parallel", "new_user", "text")


def pytest_collection_modifyitems(items):
  place = {f"tests.test_{name}": i for i, name in enumerate(_LONG)}
  items.sort(key=lambda item: place.get(item.module.__name__, len(place)))


@pytest.fixture(autouse=True, scope="module")
def old_objects_are_not_collected():
  """Jax keeps millions of objects of the tests before, which `gc.collect` looks at for a second."""
  gc.collect()
  gc.freeze()


@pytest.fixture(scope="session")
def programs():
  """Runs commands on one device, without the seconds that imports take."""
  with Server(HEAVY, **ONE_DEVICE) as server:
    yield server
