"""Handwritten digits, masked diffusion, D-MMD: the demo. A quarter of an hour on two CPU cores."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  # What runs, in order; a phase that is complete in the workdir is not run again.
  config.phases = ("teacher", "distill", "evaluate")

  config.preset = ""  # a name in config.presets, where there are any: fields set together

  config.run = run = ConfigDict()
  run.seed = 0
  run.log_every = 50  # steps per line of TensorBoard; the terminal shows the same means
  run.checkpoint_every = 500  # steps
  run.keep_checkpoints = 2  # the last few
  run.tensorboard = True  # needs tensorflow
  # Devices along the mesh axes data, fsdp, tensor; -1 takes those left over.
  run.mesh = (-1, 1, 1)
  run.data_workers = 0  # processes that read and decode examples; 0 is a thread

  config.dataset = ConfigDict()
  # digits | coins | mixture; texts: english | textfile | text8 | lm1b | openwebtext
  config.dataset.name = "digits"

  config.process = process = ConfigDict()
  process.name = "masked"  # masked | uniform | marginal (pi = frequencies in the data)
  process.schedule = "linear"  # linear | cosine | polynomial
  process.schedule_power = 2.0  # n of the polynomial schedule, alpha = 1 - t^n

  config.network = network = ConfigDict()
  network.name = "transformer"  # transformer | uvit (images; see configs/cifar_dmmd.py)
  network.width = 128
  network.depth = 4
  network.heads = 4
  network.patch = 2  # images: p x p tokens are one position of the transformer; sequences: p
  network.embed_dim = 32  # features of one token before patches are folded
  network.mlp_ratio = 4
  network.positions = "rotary"  # rotary | learned
  network.conv = 0  # sequences: neighbours that a depthwise convolution mixes before attention
  # Sequences: tokens of a block, drawn together given the blocks before it; 0 is all of them.
  network.block = 0
  network.classes = False  # condition on the labels of the data set
  network.dropout = 0.0  # of the teacher, in training
  network.dtype = "float32"  # of the computation; parameters and losses are float32
  # What the backward pass computes again in place of storing it: none | full (all but the layers'
  # inputs) | narrow (all but those and products of the network's width) | products (all but matrix
  # products). Less memory, and on CPUs less time, since fresh memory costs more than sums: a joint
  # step takes 82 ms with full, 77 narrow, 89 products, 127 none.
  network.remat = "narrow"

  config.teacher = teacher = ConfigDict()
  teacher.loss = "bound"  # bound (negative ELBO) | cross_entropy
  teacher.num_timesteps = 0  # T of a discrete-time chain; 0 is continuous time
  teacher.num_steps = 2400
  teacher.batch_size = 64
  teacher.microbatches = 1  # parts of a batch taken one after the other: less memory
  teacher.label_dropout = 0.1  # of labels, which guidance needs
  teacher.ema = 0.999
  teacher.optimizer = optimizer(learning_rate=1.5e-3, decay="cosine", b1=0.9, b2=0.99)

  config.distill = distill = ConfigDict()
  # dmmd | kernel_score (no auxiliary model, no teacher in the step) | dmmd_kernel: both, added.
  distill.method = "dmmd"
  distill.teacher = "network"  # network | exact (synthetic data: the true E[x | z_t])
  distill.teacher_workdir = ""  # take the teacher from another run; "" is this one
  distill.num_steps = 350  # generator updates
  distill.batch_size = 64  # examples per update
  distill.microbatches = 1
  distill.ema = 0.99
  distill.student_optimizer = optimizer(learning_rate=5e-4, decay="cosine", b1=0.0, b2=0.99)
  distill.auxiliary_optimizer = optimizer(learning_rate=1e-3, decay="constant", b1=0.0, b2=0.99)
  # alternate: one generator update, then auxiliary_updates updates, each with its own rollout (the
  # paper). joint: both from one rollout, at about three quarters of the cost.
  distill.updates = "alternate"
  distill.auxiliary_updates = 1
  # Input noise of the student: none | gaussian (per position) | pyramid (images: all resolutions).
  distill.noise = "pyramid"
  distill.noise_dim = 4  # numbers per position, or maps per resolution
  # Standard deviation of the noise. A joint choice can settle in the noise, or in the weights once
  # and for all, which loses modes; both grow from zero, the first with the square of this scale.
  distill.noise_scale = 5.0
  distill.steps = 8  # k, the sampling steps that the student is made for
  distill.loss = "cross_entropy"  # L_s: cross_entropy (Eq. 11, 12) | bound | squared_error
  distill.auxiliary_target = "soft"  # soft: p, lower variance, masked only | hard: a sample of p
  distill.teacher_weight = 1.0  # lambda of Eq. 12
  distill.weight = "constant"  # w(s): constant | elbo
  distill.teacher_dtype = "float32"  # frozen parameters; bfloat16 takes half
  distill.guidance = 0.0  # w of classifier-free guidance; two evaluations of the teacher
  distill.temperature = 1.0  # the teacher is distilled as it would be sampled
  distill.top_p = 1.0
  distill.top_p_penalty = 2.0  # nats that excluded categories lose (the paper's Delta)
  distill.renoise = "posterior"  # z_s ~ q(z_s | z_t, x) | forward: q(z_s | x), as in IDLM
  distill.from_prior = False  # True: t = 1 always, the one-step setting of DiMO

  distill.dmmd_weight = 3.0  # of Eq. 11 where the kernel score is added to it

  # The kernel score: a student of one to four steps, matched to the joint law of all tokens.
  distill.score = score = ConfigDict()
  score.objective = "conditional"  # given z_t, strictly proper | marginal: MMD^2 of a batch
  score.num_noises = 2  # student evaluations per z_t, each with noise of its own
  # What outputs are compared with: data, the example that z_t came from | teacher, its samples.
  score.target = "data"
  score.target_nfe = 16  # steps in which the teacher samples
  # Kernels that are summed: (window, stride, bandwidths in tokens); window 0 is the whole example.
  score.scales = ((0, 1, (2.0, 8.0, 32.0)), (4, 2, (1.0, 4.0)), (2, 1, (1.0,)))
  score.category_bandwidth = 0.0  # grey levels that count as near; 0: equal or not

  config.evaluate = evaluate = ConfigDict()
  evaluate.teacher_nfe = (1, 2, 4, 8, 16, 32, 64, 256)
  evaluate.student_nfe = (1, 2, 4, 8, 16, 32)
  evaluate.num_blocks = 3  # blocks of samples; they give the errors
  evaluate.block_size = 0  # samples of a block; 0 is as many as the held-out split has
  evaluate.split = "held_out"  # held_out | validation (texts: to choose settings by)
  evaluate.teacher_temperature = 1.0
  evaluate.teacher_top_p = 1.0
  evaluate.teacher_guidance = 0.0  # doubles the evaluations of each step
  return config


def optimizer(learning_rate: float, decay: str, b1: float, b2: float) -> ConfigDict:
  """AdamW."""
  config = ConfigDict()
  config.learning_rate = learning_rate
  config.warmup_steps = 100  # linear, from 0
  config.decay = decay  # constant | linear | cosine, to 0 at the last step
  config.b1 = b1
  config.b2 = b2
  config.weight_decay = 0.0
  config.clip_norm = 1.0  # of the global gradient
  return config
