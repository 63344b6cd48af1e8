"""Handwritten digits, masked diffusion, D-MMD: the demo. Five to ten minutes on two CPU cores.

What each field means, and may be, is in dmmd_jax/fields.py; here is why it has its value.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.phases = ("teacher", "distill", "evaluate")
  config.preset = ""

  config.run = run = ConfigDict()
  run.seed = 0
  run.log_every = 50
  run.checkpoint_every = 500
  run.keep_checkpoints = 2
  run.tensorboard = True
  run.mesh = (-1, 1, 1)  # data, fsdp, tensor
  run.profile = ()  # first and last step
  run.data_workers = 0  # a thread: the digits are in memory

  config.dataset = ConfigDict()
  config.dataset.name = "digits"

  config.process = process = ConfigDict()
  process.name = "masked"  # masked | uniform | marginal
  process.schedule = "linear"  # linear | cosine | polynomial
  process.schedule_power = 2.0

  config.network = network = ConfigDict()
  network.name = "transformer"  # transformer | uvit
  network.width = 128
  network.depth = 4
  network.heads = 4
  network.patch = 2
  network.embed_dim = 32
  network.mlp_ratio = 4
  network.positions = "rotary"  # rotary | learned
  network.conv = 0
  network.block = 0
  network.classes = False
  network.dropout = 0.0
  network.dtype = "float32"  # float32 | bfloat16
  # Less memory, and on CPUs less time, since fresh memory costs more than sums: a joint step takes
  # 82 ms with full, 77 narrow, 89 products, 127 none.
  network.remat = "narrow"

  config.teacher = teacher = ConfigDict()
  teacher.loss = "bound"  # bound | cross_entropy
  teacher.num_timesteps = 0  # continuous time
  teacher.num_steps = 2400
  teacher.batch_size = 64
  teacher.microbatches = 1
  teacher.label_dropout = 0.1
  teacher.ema = 0.999
  teacher.optimizer = optimizer(learning_rate=1.5e-3, decay="cosine", b1=0.9, b2=0.99)

  config.distill = distill = ConfigDict()
  distill.method = "dmmd"
  distill.teacher = "network"  # network | exact
  distill.teacher_workdir = ""
  distill.num_steps = 600
  distill.batch_size = 64
  distill.microbatches = 1
  distill.ema = 0.99
  distill.student_optimizer = optimizer(learning_rate=5e-4, decay="cosine", b1=0.0, b2=0.99)
  distill.auxiliary_optimizer = optimizer(learning_rate=1e-3, decay="constant", b1=0.0, b2=0.99)
  distill.updates = "alternate"  # as the paper; joint is about three quarters of the cost
  distill.auxiliary_updates = 1
  distill.noise = "pyramid"  # none | gaussian | pyramid | latent
  distill.noise_dim = 4
  distill.noise_scale = 5.0
  distill.student_nfe = 2  # k; 8 and 4 are far behind up to two steps (docs/methods.md)
  distill.teacher_dtype = "float32"
  distill.guidance = 0.0
  distill.temperature = 1.0
  distill.top_p = 1.0
  distill.top_p_penalty = 2.0
  distill.from_prior = False
  distill.lora_rank = 0

  # Of the settings of methods those of the one that is chosen are used; docs/methods.md has all.
  distill.dmmd = dmmd = ConfigDict()
  dmmd.loss = "cross_entropy"  # cross_entropy (Eq. 11, 12) | bound | squared_error
  dmmd.auxiliary_target = "soft"  # soft | hard
  dmmd.teacher_weight = 1.0
  dmmd.weight = "constant"  # constant | elbo
  dmmd.renoise = "posterior"  # posterior | forward

  distill.dmmd_kernel = ConfigDict()
  distill.dmmd_kernel.dmmd_weight = 3.0

  # The kernel score: a student of one to four steps, matched to the joint law of all tokens.
  distill.score = score = ConfigDict()
  score.objective = "conditional"  # conditional | pooled | marginal
  score.num_noises = 2
  score.target = "data"  # data | teacher
  score.target_nfe = 16
  # (window, stride, bandwidths); the first window is the whole example.
  score.scales = ((0, 1, (2.0, 8.0, 32.0)), (4, 2, (1.0, 4.0)), (2, 1, (1.0,)))
  score.category_bandwidth = 0.0

  config.evaluate = evaluate = ConfigDict()
  evaluate.teacher_nfe = (1, 2, 4, 8, 16, 64)
  evaluate.student_nfe = (1, 2, 4, 8, 16)
  evaluate.num_sample_batches = 3
  evaluate.sample_batch_size = 0  # as the held-out split
  evaluate.sampler = "ancestral"  # docs/samplers.md has all
  evaluate.student_sampler = "ancestral"
  evaluate.grid = "even"  # even | cosine | log_snr | own
  evaluate.times = ()
  evaluate.last_step = "drawn"  # drawn | greedy
  evaluate.split = "held_out"  # held_out | validation
  evaluate.teacher_temperature = 1.0
  evaluate.teacher_top_p = 1.0
  evaluate.teacher_guidance = 0.0
  evaluate.brief = False
  return config


def make_uniform(config: ConfigDict) -> ConfigDict:
  """A config of the masked process with what the uniform one wants."""
  config.process.name = "uniform"
  # A network trained with cross-entropy predicts E[x | z_t], which D-MMD matches as it stands;
  # teacher.loss = "bound" trains a leave_one_out network instead, which is turned into the mean.
  config.teacher.loss = "cross_entropy"
  # Given z_t, a sample x and z_s are dependent: the auxiliary model must see the sample.
  config.distill.dmmd.auxiliary_target = "hard"
  return config


def optimizer(learning_rate: float, decay: str, b1: float, b2: float) -> ConfigDict:
  """AdamW."""
  config = ConfigDict()
  config.learning_rate = learning_rate
  config.warmup_steps = 100
  config.decay = decay  # constant | linear | cosine
  config.b1 = b1
  config.b2 = b2
  config.moments = "float32"  # float32 | bfloat16 | factored
  config.weight_decay = 0.0
  config.clip_norm = 1.0
  return config
