"""What holds for all scripts of launch/."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.launch.conftest import LAUNCH

SCRIPTS = sorted({*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(script):
  shellcheck = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
  done = subprocess.run([shellcheck, script], capture_output=True, text=True)
  assert done.returncode == 0, done.stdout
