"""OpenWebText, 1024 tokens of GPT-2's byte pairs, masked, D-MMD: the paper's Table 2.

Needs the data set (the error says how to prepare it) and a folder with GPT-2 (model.safetensors,
config.json, vocab.json, merges.txt). The paper's Gradient Moments under GPT-2 (arXiv 2603.20155):
masked teacher with top-p 0.85: 0.275 at 256 and 512 steps; masked D-MMD: 0.340 at 4, 0.236 at 16,
0.225 at 32, 0.231 at 64; uniform teacher (top-p 0.5) 0.310 at 512; uniform D-MMD (0.7) 0.307 at 32;
autoregressive 0.061. Not yet run by us.
"""

from configs import text_dmmd

GPT2 = "~/gpt2"


def get_config():
  config = text_dmmd.get_config()
  config.phases = ("teacher", "distill", "evaluate")
  config.run.checkpoint_every = 5000

  dataset = config.dataset
  dataset.name = "openwebtext"
  dataset.alphabet = "gpt2"
  dataset.tokenizer = GPT2
  dataset.length = 1024

  # The shape of GPT-2 small, as MDLM (arXiv 2406.07524) and its successors have it.
  network = config.network
  network.width, network.depth, network.heads = 768, 12, 12
  network.embed_dim = 768
  network.conv = 0  # byte pairs leave the plateau without it
  network.dtype = "bfloat16"

  teacher = config.teacher
  teacher.num_steps = 1_000_000
  teacher.batch_size = 512
  teacher.ema = 0.9999
  teacher.optimizer.learning_rate = 3e-4
  teacher.optimizer.warmup_steps = 2500
  teacher.optimizer.decay = "constant"

  config.reference.gpt2 = GPT2

  distill = config.distill
  distill.num_steps = 50_000
  distill.batch_size = 256
  distill.ema = 0.999
  distill.student_nfe = 16
  distill.top_p = 0.85  # the best teacher's
  distill.noise_dim = 64
  for optimizer in (distill.student_optimizer, distill.auxiliary_optimizer):
    optimizer.learning_rate = 3e-5  # a tenth of the teacher's
    optimizer.warmup_steps = 1000
    optimizer.decay = "constant"

  evaluate = config.evaluate
  evaluate.teacher_nfe = (16, 32, 64, 128, 256, 512)
  evaluate.student_nfe = (4, 8, 16, 32, 64)
  evaluate.teacher_top_p = 0.85
  evaluate.num_sample_batches = 32
  evaluate.sample_batch_size = 32
  del config.presets["quick"]
  return config
