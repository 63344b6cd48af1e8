import os

# Eight virtual devices, so that every test that shards really does. Programs here are small: to
# compile them quickly is worth more than that they run fast.
os.environ["XLA_FLAGS"] = (
  os.environ.get("XLA_FLAGS", "")
  + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
)
