"""What is installed has the configs, and finds them from any folder."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = pathlib.Path(__file__).parents[1]


def run(*args, **options):
  return subprocess.run(
    [sys.executable, *map(str, args)], capture_output=True, text=True, timeout=120, **options
  )


def test_what_is_built_runs_a_config_by_its_name_from_another_folder(tmp_path):
  built, elsewhere = tmp_path / "built", tmp_path / "elsewhere"
  elsewhere.mkdir()
  done = run("setup.py", "-q", "build_py", f"--build-lib={built}", cwd=ROOT)
  assert done.returncode == 0, done.stderr
  environment = os.environ | {"PYTHONPATH": str(built)}
  # A trace of where modules are looked for: nowhere in the checkout.
  args = ["-vv", "-m", "dmmd_jax.main", "--config=coins_dmmd", "--config.run.seed=3", "--help"]
  done = run(*args, cwd=elsewhere, env=environment)
  assert done.returncode == 0, done.stderr[-2000:]
  assert "  seed = 3  " in done.stdout and "  name = 'coins'  " in done.stdout
  assert f"{built}/dmmd_jax/configs/toy_dmmd.py" in done.stderr
  assert f"{ROOT}/dmmd_jax" not in done.stderr and f"{ROOT}/configs" not in done.stderr


def test_every_requirement_has_a_version_that_it_was_tested_with(monkeypatch):
  text = (ROOT / "constraints.txt").read_text()
  lines = [line for line in text.splitlines() if not line.startswith("#")]
  assert all(re.fullmatch(r"[\w.-]+==[\w.+!]+", line) for line in lines)
  pinned = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}
  found = {}
  monkeypatch.setattr(setuptools, "setup", lambda **options: found.update(options))
  monkeypatch.chdir(ROOT)
  runpy.run_path("setup.py")
  required = [Requirement(x) for x in found["install_requires"] + found["extras_require"]["test"]]
  assert "jax" in {x.name for x in required}
  for requirement in required:
    if not requirement.marker or requirement.marker.evaluate():
      assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])
