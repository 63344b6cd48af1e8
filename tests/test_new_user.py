"""What the README has a new user do with images of their own, as printed but for the sizes.

Texts are in `test_text.py`.
"""

import functools
import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.test_docs import ROOT, commands

README = (ROOT / "README.md").read_text()
SMALL = (
  "--config.run.tensorboard=False", "--config.network.width=16", "--config.network.depth=1",
  "--config.network.heads=2", "--config.teacher.num_steps=3", "--config.teacher.batch_size=8",
  "--config.distill.num_steps=2", "--config.distill.batch_size=8",
  "--config.evaluate.teacher_nfe=2", "--config.evaluate.student_nfe=4",
  "--config.evaluate.num_sample_batches=2", "--config.evaluate.sample_batch_size=8",
  "--config.distill.method=kernel_score",  # compiles soonest
)  # fmt: skip


def as_printed(programs, home, start, *small):
  """Output of the README's first command that begins with `start`, in a folder as one's home."""
  command = next(line for line in commands(README) if line.startswith(start))
  words = [word.replace("runs/", f"{home}/runs/") for word in shlex.split(command)]
  words = [f"--out={home}/{w[6:]}" if w.startswith("--out=") else w for w in words]
  done = programs.run(words[2], (*words[3:], *small), HOME=str(home))
  assert done.code == 0, done.err[-2000:]
  return done.out


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  for i, digit in enumerate(load_digits().images[:40]):
    image = Image.fromarray((16 * digit).clip(max=255).astype(np.uint8)).resize((8, 8))
    path = folder / "images" / str(i % 2) / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
  return folder


def test_images(home, programs):
  run = functools.partial(as_printed, programs, home)
  run("python -m dmmd_jax.main --config=configs/images_dmmd.py", *SMALL)
  evaluation = home / "runs/images/evaluate"
  assert (evaluation / "report.html").is_file()
  run("python -m dmmd_jax sample --workdir=runs/images", "--num=4", "--nfe=1")
  assert min(Image.open(home / "samples.png").size) >= 2 * 8
  listed = run("python -m dmmd_jax runs", f"{home}/runs")
  assert "images" in listed and listed.count("complete") >= 3
