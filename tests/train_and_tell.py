"""Trains a small teacher, and prints its losses and which examples this process has read.

`python -m tests.train_and_tell DIRECTORY AXES`: the sizes of the mesh as JSON. A process of several
joins the others first.
"""

import json
import sys

from etils import epath

from dmmd_jax import hosts, parallel, training
from dmmd_jax.data.pipeline import Batches, Dataset
from tests.test_parallel import parts_of, small_config


class Noting:
  """Images that note which of them were read."""

  def __init__(self, images):
    self.images, self.shape, self.read = images, images.shape, set()

  def __len__(self):
    return len(self.images)

  def __getitem__(self, i):
    self.read.add(int(i))
    return self.images[i]


def main(directory: str, axes: str) -> None:
  hosts.join()
  config = small_config("transformer")
  config.run.tensorboard = False
  data, init, step, size = parts_of(config, "teacher")
  source, losses = Noting(data.train), []

  class Log(training.TrainingLog):
    def add(self, step, metrics):
      losses.append(float(metrics["loss"]))
      super().add(step, metrics)

  training.TrainingLog = Log
  batches = Batches(Dataset(source, data.held_out, 17), size, seed=0)
  job = training.Job("test", 4, lambda key, _: init(key), step, batches)
  training.train(job, epath.Path(directory), config.run, parallel.make_mesh(json.loads(axes)))
  print("RESULT", json.dumps({"losses": losses, "read": sorted(source.read)}))


if __name__ == "__main__":
  main(*sys.argv[1:])
