"""English text, masked diffusion over characters, D-MMD: measured by Gradient Moment."""

from ml_collections import ConfigDict

from configs import digits_dmmd


def get_config():
  config = digits_dmmd.get_config()
  config.phases = ("reference", "teacher", "distill", "evaluate")

  dataset = config.dataset
  dataset.name = "english"  # english | textfile | text8 | lm1b | openwebtext
  dataset.alphabet = "text8"  # text8 | printable | gpt2
  dataset.length = 64
  dataset.path = ""
  dataset.unknown = "error"  # error | drop
  dataset.tokenizer = ""

  network = config.network
  network.patch = 1
  network.depth = 3
  # Without these two a masked teacher of characters stays at their frequencies for a long time.
  network.positions = "rotary"
  network.conv = 5

  teacher = config.teacher
  teacher.num_steps = 5000
  teacher.batch_size = 64
  teacher.optimizer.learning_rate = 2e-3

  # The language model by whose gradients text is measured: a causal network of the same size.
  config.reference = reference = ConfigDict()
  reference.num_steps = 2500
  reference.batch_size = 64
  reference.microbatches = 1
  reference.ema = 0.999
  reference.optimizer = digits_dmmd.optimizer(2e-3, decay="cosine", b1=0.9, b2=0.99)
  reference.workdir = ""
  reference.gpt2 = ""

  distill = config.distill
  distill.num_steps = 500
  distill.student_optimizer.learning_rate = 1e-3
  distill.student_optimizer.b1 = 0.9
  distill.student_optimizer.warmup_steps = 50
  distill.auxiliary_optimizer.learning_rate = 2e-3
  distill.noise = "gaussian"
  distill.noise_dim = 16
  distill.noise_scale = 15.0
  distill.student_nfe = 8
  distill.dmmd_kernel.dmmd_weight = 1.0
  distill.score.scales = (
    (0, 1, (8.0, 32.0)),
    (16, 4, (2.0, 8.0)),
    (8, 2, (1.0, 4.0)),
    (4, 1, (1.0,)),
    (2, 1, (1.0,)),
  )

  evaluate = config.evaluate
  evaluate.teacher_nfe = (1, 2, 4, 8, 16, 32, 64)
  evaluate.student_nfe = (1, 2, 4, 8, 16)
  evaluate.num_sample_batches = 6
  evaluate.sample_batch_size = 256  # two minibatches of the Gradient Moment

  quick = {
    "reference": {"num_steps": 600},
    "teacher": {"num_steps": 1200},
    "distill": {"num_steps": 150},
    "evaluate": {"teacher_nfe": (4, 16, 64), "student_nfe": (4, 16)},
  }
  config.presets = ConfigDict({"quick": quick})
  return config
