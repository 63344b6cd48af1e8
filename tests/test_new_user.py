"""What the README has a new user do with data of their own, as printed but for the sizes."""

import shlex

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from tests.fuzz.damage import environment
from tests.server import HEAVY, Server
from tests.test_docs import ROOT, commands

README = (ROOT / "README.md").read_text()
SMALL = (
  "--config.run.tensorboard=False", "--config.network.width=16", "--config.network.depth=1",
  "--config.network.heads=2", "--config.teacher.num_steps=3", "--config.teacher.batch_size=8",
  "--config.distill.num_steps=2", "--config.distill.batch_size=8",
  "--config.evaluate.teacher_nfe=2", "--config.evaluate.student_nfe=4",
  "--config.evaluate.num_sample_batches=2", "--config.evaluate.sample_batch_size=8",
)  # fmt: skip
SMALL_TEXT = (
  *SMALL, "--config.dataset.length=16", "--config.reference.num_steps=2",
  "--config.reference.batch_size=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
  folder = tmp_path_factory.mktemp("home")
  for i, digit in enumerate(load_digits().images[:40]):
    image = Image.fromarray((16 * digit).clip(max=255).astype(np.uint8)).resize((8, 8))
    path = folder / "images" / str(i % 2) / f"{i}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
  (folder / "texts").mkdir()
  lines = [f"Once upon a time there were {i} kings, and a cat." for i in range(200)]
  (folder / "texts" / "tale.txt").write_text("\n\n".join(lines))
  return folder


@pytest.fixture(scope="module")
def run(home):
  with Server(HEAVY, HOME=str(home), **environment()) as server:

    def as_printed(start, *small):
      """Runs the first command that begins with `start`, in the folder of the home."""
      command = next(line for line in commands(README) if line.startswith(start))
      words = [word.replace("runs/", f"{home}/runs/") for word in shlex.split(command)]
      words = [f"--out={home}/{w[6:]}" if w.startswith("--out=") else w for w in words]
      outcome = server.run(words[2], (*words[3:], *small), 120.0)
      assert outcome.code == 0, outcome.err[-2000:]
      return outcome.out

    yield as_printed


def test_images(home, run):
  run("python -m dmmd_jax.main --config=configs/images_dmmd.py", *SMALL)
  evaluation = home / "runs/images/evaluate"
  assert (evaluation / "report.html").is_file()
  run("python -m dmmd_jax sample --workdir=runs/images", "--num=4", "--nfe=1")
  assert min(Image.open(home / "samples.png").size) >= 2 * 8
  listed = run("python -m dmmd_jax runs", f"{home}/runs")
  assert "images" in listed and listed.count("complete") >= 3


def test_texts(home, run):
  run("python -m dmmd_jax.main --config=configs/text_dmmd.py", *SMALL_TEXT)
  text = run("python -m dmmd_jax sample --workdir=runs/texts", "--nfe=1")
  assert text.startswith("Once upon") and len(text.strip("\n")) == 16
