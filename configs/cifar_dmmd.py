"""CIFAR-10 at full scale, masked diffusion, D-MMD: the paper's Table 1 (arXiv 2603.20155).

Expected, FID of 50,000 samples to the training split (the paper's numbers; not yet run by us):

    NFE               4     8    16    32    64   128   256   512  1024
    masked teacher             122.9  47.1  20.0  11.1   7.8   6.7   6.4
    masked D-MMD   22.3  12.7   5.3   3.8   3.5

The network has 144.4 M parameters. One image costs 62.7 GFLOP forward and 248.5 for a gradient
(188.0 without remat), for which the forward pass leaves 23 MB (406 MB without remat).
docs/scaling.md has memory and expected time on TPUs.
`--config.preset=smoke` runs all of it on made images in minutes on a CPU.
"""

from ml_collections import ConfigDict

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()

  run = config.run
  run.checkpoint_every = 5000  # a preemption costs at most some twenty minutes
  run.log_every = 100
  run.data_workers = 4  # decoding 32x32 PNGs for 256 examples a step would keep a thread busy

  dataset = config.dataset
  dataset.name = "cifar10"  # npz | folder | stripes | any images of tensorflow-datasets
  dataset.shape = (32, 32, 3)
  dataset.path = ""
  dataset.flip = True  # doubles the data

  config.process.schedule = "cosine"  # spends more steps where many pixels are masked

  config.network = network = ConfigDict()
  network.name = "uvit"
  network.channels = (256,)  # at 32x32: fine detail is cheap to see with convolutions
  network.res_blocks = 3
  network.width = 768  # of the transformer at 16x16, where joint structure is decided
  network.depth = 12
  network.heads = 12  # of 64 features, as in ViT-B
  network.mlp_ratio = 4
  network.embed_dim = 64
  network.classes = False  # the paper's models are unconditional
  network.dropout = 0.1  # 50,000 images are seen hundreds of times
  network.dtype = "bfloat16"
  # An eighteenth of the memory, and no slower: a v5e-16 should take 98 ms a step without.
  network.remat = "full"

  teacher = config.teacher
  teacher.num_steps = 500_000
  teacher.batch_size = 256
  teacher.ema = 0.9999  # averages the last 10,000 steps: FID is sensitive to it
  teacher.optimizer.learning_rate = 2e-4  # as is usual at this width; more is unstable in bf16
  teacher.optimizer.warmup_steps = 5000
  teacher.optimizer.decay = "constant"  # with an average of parameters no decay is needed
  teacher.optimizer.b1 = 0.9

  distill = config.distill
  distill.num_steps = 50_000  # a tenth of the teacher's
  distill.batch_size = 256
  distill.ema = 0.999
  distill.teacher_dtype = "bfloat16"  # never updated, and used in bfloat16 anyway
  distill.student_nfe = 16  # students are best near the number that they are made for
  distill.noise = "pyramid"  # without noise the paper's student has FID 151 in place of 22 at 4
  distill.noise_dim = 4
  # The student starts as its teacher and moves little: a twentieth of the teacher's rate.
  distill.student_optimizer.learning_rate = 1e-5
  distill.student_optimizer.warmup_steps = 1000
  distill.student_optimizer.decay = "cosine"
  # The auxiliary model must follow the student: it learns faster.
  distill.auxiliary_optimizer.learning_rate = 2e-5
  distill.auxiliary_optimizer.warmup_steps = 1000

  evaluate = config.evaluate
  evaluate.teacher_nfe = (16, 32, 64, 128, 256, 512, 1024)
  evaluate.student_nfe = (4, 8, 16, 32, 64)
  # FID needs 50,000 samples, more than are drawn at once.
  evaluate.num_sample_batches = 50
  evaluate.sample_batch_size = 1000
  evaluate.inception = "~/pt_inception-2015-12-05-6726825d.pth"

  config.presets = ConfigDict({"smoke": smoke()})
  return config


def smoke() -> dict:
  """Every part of the run with made images and a small network: five minutes on a CPU."""
  optimizer = {"warmup_steps": 10}
  return {
    "run": {"data_workers": 1, "checkpoint_every": 20, "log_every": 5},
    "dataset": {"name": "stripes"},
    "network": {
      "channels": (16,), "res_blocks": 1, "width": 64, "depth": 2, "heads": 4, "embed_dim": 8,
    },
    "teacher": {"num_steps": 40, "batch_size": 16, "optimizer": optimizer},
    "distill": {
      "num_steps": 10,
      "batch_size": 8,
      "student_optimizer": optimizer,
      "auxiliary_optimizer": optimizer,
    },
    "evaluate": {
      "teacher_nfe": (2, 4), "student_nfe": (1, 2),
      "num_sample_batches": 2, "sample_batch_size": 64,
    },
  }  # fmt: skip
