"""Small images of one's own, masked diffusion, D-MMD and the kernel score together.

    python -m dmmd_jax.main --config=configs/images_dmmd.py --config.dataset.path=~/images
    python -m dmmd_jax.main --config=configs/images_dmmd.py --config.dataset.name=npz \
        --config.dataset.path=~/images.npz

The shape is read from the files, and the preset of the nearest size is taken: 28 and 32 are for two
CPU cores, 64 is for one accelerator. `--config.preset=28` takes that one for images of another
size. Fréchet distances need labels, the folders' names or the arrays of an npz file; without them
only the kernel MMD is measured.

Times in the presets follow from the measured time of a step. Only preset 28 has been run to its end
(docs/own_data.md): the student is ahead of the teacher's 32 steps in one. What made the difference
were changes of low rank, which bear three times the rate, for 800 updates in place of 400; whole
networks were no better for them. The network is that of the demo, with patches of 4 x 4.
"""

from ml_collections import ConfigDict

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.preset = "auto"

  dataset = config.dataset
  dataset.name = "folder"  # folder | npz | any images of tensorflow-datasets
  dataset.path = ""
  dataset.shape = ()
  dataset.flip = False  # digits and letters are not their mirror images

  config.network.patch = 0  # 4 where that divides the images

  distill = config.distill
  distill.method = "dmmd_kernel"
  distill.updates = "joint"  # three quarters of the cost
  distill.student_nfe = 4
  distill.lora_rank = 16
  distill.student_optimizer.learning_rate = 1.5e-3
  distill.student_optimizer.b1 = 0.5
  distill.noise_scale = 15.0  # the score uses the noise sooner the larger it is

  evaluate = config.evaluate
  evaluate.teacher_nfe = (1, 2, 4, 8, 16, 32, 64)
  evaluate.student_nfe = (1, 2, 4, 8)
  evaluate.num_sample_batches = 3
  evaluate.sample_batch_size = 250

  config.presets = ConfigDict({"28": grey(), "32": colour(), "64": accelerator()})
  return config


def grey() -> dict:
  """28 x 28 pixels of one channel, such as handwritten digits: 20 to 40 minutes on two cores."""
  return {
    "network": {"width": 128, "depth": 4, "heads": 4, "embed_dim": 16},
    "teacher": {"num_steps": 3000, "batch_size": 32},
    "distill": {
      "num_steps": 800,
      "batch_size": 32,
      "score": {
        "scales": ((0, 1, (32.0, 128.0)), (8, 4, (8.0, 32.0)), (4, 2, (2.0, 8.0)), (2, 1, (1.0,)))
      },
    },
  }


def colour() -> dict:
  """32 x 32 pixels of three channels, such as small photographs: 25 minutes on two CPU cores."""
  return {
    "network": {"width": 128, "depth": 4, "heads": 4, "embed_dim": 16},
    "teacher": {"num_steps": 2400, "batch_size": 16},
    "distill": {
      "num_steps": 400,
      "batch_size": 16,
      "score": {
        "scales": (
          (0, 1, (128.0, 512.0)),
          (16, 8, (32.0, 128.0)),
          (8, 4, (8.0, 32.0)),
          (4, 2, (2.0, 8.0)),
          (2, 1, (1.0, 4.0)),
        )
      },
    },
  }


def accelerator() -> dict:
  """64 x 64 pixels of three channels, on one accelerator of 16 GB.

  65 million parameters, 6.1 TFLOP a step of the teacher, 13.8 of the distillation. Compiled for a
  CPU they take 5.9 and 5.6 GiB.
  """
  return {
    "run": {"checkpoint_every": 5000, "log_every": 100, "data_workers": 4},
    "network": {
      "width": 512, "depth": 12, "heads": 8, "embed_dim": 32, "dropout": 0.1,
      "dtype": "bfloat16", "remat": "full",
    },
    "teacher": {
      "num_steps": 200_000, "batch_size": 64, "ema": 0.9999,
      "optimizer": {"learning_rate": 3e-4, "warmup_steps": 2000, "decay": "constant", "b1": 0.9},
    },
    "distill": {
      "num_steps": 20_000, "batch_size": 32, "microbatches": 4, "ema": 0.999, "lora_rank": 0,
      "teacher_dtype": "bfloat16",
      "student_optimizer": {"learning_rate": 5e-5, "warmup_steps": 1000},
      "auxiliary_optimizer": {"learning_rate": 1e-4, "warmup_steps": 1000},
      "score": {
        "scales": (
          (0, 1, (512.0, 2048.0)), (32, 16, (128.0, 512.0)), (16, 8, (32.0, 128.0)),
          (8, 4, (8.0, 32.0)), (4, 2, (2.0, 8.0)), (2, 1, (1.0, 4.0)),
        )
      },
    },
    "evaluate": {
      "teacher_nfe": (1, 2, 4, 8, 16, 32, 64, 256),
      "num_sample_batches": 10, "sample_batch_size": 500,
    },
  }  # fmt: skip
