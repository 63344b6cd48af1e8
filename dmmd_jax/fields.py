"""Every field of a config: what it may be, and what it means. Pure Python.

`FIELDS` is the one table of both: configs are checked by it, values on the command line are read by
it, and it can be printed; the settings of a method of distillation, or of a sampler, stand in its
own file. Rules on several fields together are in `config.py`, and with those settings.
"""

import dataclasses
from typing import Any

from dmmd_jax import nested
from dmmd_jax.diffusion import registry as samplers
from dmmd_jax.distillation import registry
from dmmd_jax.fields_network import DTYPE, NETWORK
from dmmd_jax.rules import Choice, Field, Flag, Items, Or, Real, Row, Text, Whole, section

PHASES = ("teacher", "reference", "distill", "evaluate")

# Old names of fields, which are read for one more release, and in the records of earlier runs.
RENAMED = {
  "distill.steps": "distill.student_nfe",
  "distill.loss": "distill.dmmd.loss",
  "distill.auxiliary_target": "distill.dmmd.auxiliary_target",
  "distill.teacher_weight": "distill.dmmd.teacher_weight",
  "distill.weight": "distill.dmmd.weight",
  "distill.renoise": "distill.dmmd.renoise",
  "distill.dmmd_weight": "distill.dmmd_kernel.dmmd_weight",
  "evaluate.num_blocks": "evaluate.num_sample_batches",
  "evaluate.block_size": "evaluate.sample_batch_size",
}

# What records mean of before there were these fields, by what they lack.
ADDED = {
  "distill.lora_rank": 0,
  "teacher.optimizer.moments": "float32",
  "reference.optimizer.moments": "float32",
  "distill.student_optimizer.moments": "float32",
  "distill.auxiliary_optimizer.moments": "float32",
  "evaluate.brief": False,
}

# Times are float32: a finer grid of them does not exist.
_MOST_TIMES = 2**24


def upgraded(recorded: Any) -> Any:
  """What an earlier version has recorded, in the fields of this one."""
  return nested.completed(nested.renamed(recorded, RENAMED), ADDED)


def _of(kind: str, fields: dict[str, Field]) -> dict[str, Field]:
  return {name: dataclasses.replace(field, kinds=(kind,)) for name, field in fields.items()}


_SHAPE = Row(("height", "width", "channels"), (Whole(1, 2**12), Whole(1, 2**12), Choice((1, 3, 4))))
_NFE = Items(Whole(1, _MOST_TIMES), distinct=True)
_TEMPERATURE = Real("[0.01, 100]")

_OPTIMIZER = {  # AdamW
  "learning_rate": Field(Real("(0, 1]"), "The highest, after warm-up."),
  "warmup_steps": Field(Whole(), "Steps of a linear rise from 0."),
  "decay": Field(Choice(("constant", "linear", "cosine")), "After warm-up, to 0 at the last step."),
  "b1": Field(Real("[0, 1)"), "Decay of the mean of gradients; 0 keeps none."),
  "b2": Field(Real("[0, 1)"), "Decay of the mean of their squares."),
  "moments": Field(
    Choice(("float32", "bfloat16", "factored")),
    "Of both means, float32 | bfloat16: the first in that | factored: of the second those of rows"
    " and columns, too (Adafactor).",
  ),
  "weight_decay": Field(Real("[0, 100]"), "Decoupled, times the learning rate."),
  "clip_norm": Field(Real("(0, inf)"), "Highest norm of the gradient of all parameters together."),
}
_TRAINING = {
  "num_steps": Field(Whole(1), "Updates of the model."),
  "batch_size": Field(Whole(1, 2**20), "Examples of an update."),
  "microbatches": Field(
    Whole(1),
    "Parts of a batch taken one after the other: less memory, the same update where losses are"
    " means over examples (those of sdtt and dcd are over the masks of a part).",
  ),
  "ema": Field(
    Real("[0, 1)"), "Decay of the average of parameters, which is what other phases use."
  ),
}

FIELDS: dict[str, Field] = {
  "phases": Field(
    Items(Choice(PHASES), distinct=True),
    "What runs, in order; a phase that is complete in the workdir is not run again.",
  ),
  "preset": Field(
    Text(),
    'A name in `presets`, fields that are set together; "" is none; "auto" is the one whose name, a'
    " side in pixels, is nearest to the size of the images.",
  ),
  **section(
    "run",
    seed=Field(Whole(0, 2**32 - 4), "Of all random numbers; up to three above it are used, too."),
    log_every=Field(
      Whole(1), "Steps per line of TensorBoard, which has their means; so has the terminal."
    ),
    checkpoint_every=Field(Whole(1), "Steps."),
    keep_checkpoints=Field(Whole(1), "How many of the last checkpoints are kept."),
    tensorboard=Field(Flag(), "Whether to write logs for TensorBoard; needs tensorflow."),
    mesh=Field(
      Items(Whole(-1), 3), "Devices along the axes data, fsdp, tensor; -1 takes those left over."
    ),
    profile=Field(
      Or(Items(Whole(1), 2), (), "no profile"),
      "First and last step of each training phase that jax's profiler traces, into the folder"
      " `profile` beside its checkpoints.",
    ),
    data_workers=Field(
      Whole(0, 1024), "Processes that read and decode examples; 0 is a thread of the program's own."
    ),
  ),
  **section(
    "dataset",
    name=Field(
      Text(),
      "digits | coins | mixture | hmm; images: npz | folder (of PNGs) | stripes (made), or any of"
      " tensorflow-datasets with images of one size; texts: english (ships with Python) | textfile"
      " (your own) | chats (a JSONL file) | text8 | lm1b | openwebtext (of tensorflow-datasets).",
    ),
    shape=Field(
      Or(_SHAPE, (), "what the files say"), "Height, width, channels of an image.", ("images",)
    ),
    path=Field(
      Text(),
      "npz, textfile and chats: the file; folder and textfile: the folder; tensorflow-datasets: its"
      ' data_dir, "" for its own.',
      ("images", "texts"),
    ),
    flip=Field(Flag(), "Whether an image and its mirror image are equally likely.", ("images",)),
    alphabet=Field(
      Choice(("text8", "printable", "gpt2", "file")),
      "Tokens: text8 (a to z and space) | printable (ASCII) | gpt2 (its byte pairs) | file (of"
      " another tokenizer.json).",
      ("texts",),
    ),
    length=Field(Whole(4, 2**20), "Tokens of one example.", ("texts", "hmm")),
    wrap=Field(
      Flag(),
      "Whether every example begins and ends with <|endoftext|>, as those of MDLM and Duo do.",
      ("optional",),
    ),
    num_categories=Field(Whole(2, 1023), "How many tokens there are.", ("hmm",)),
    num_hidden=Field(Whole(1, 1024), "States of the hidden Markov model.", ("hmm",)),
    unknown=Field(
      Choice(("error", "drop")),
      "What becomes of characters outside the alphabet, once accents are gone (é is e, ü is u).",
      ("texts",),
    ),
    tokenizer=Field(
      Text(),
      "gpt2 and file: a folder with tokenizer.json, or vocab.json and merges.txt.",
      ("texts",),
    ),
    chat=Field(
      Choice(("llada", "dream", "plain")),
      "chats: how messages become a text, as LLaDA's or Dream's tokenizer has it, or line by line.",
      ("optional",),
    ),
  ),
  **section(
    "process",
    name=Field(
      Choice(("masked", "uniform", "marginal")),
      "What tokens become: a mask, any token, or one as frequent as in the data.",
    ),
    schedule=Field(Choice(("linear", "cosine", "polynomial")), "alpha(t), the share kept at t."),
    schedule_power=Field(Real("(0, 100]"), "n of the polynomial schedule, alpha = 1 - t^n."),
  ),
  **NETWORK,
  **section(
    "teacher",
    **_TRAINING,
    loss=Field(Choice(("bound", "cross_entropy")), "bound is the negative ELBO."),
    num_timesteps=Field(Whole(0, _MOST_TIMES), "T of a discrete-time chain; 0 is continuous time."),
    label_dropout=Field(Real("[0, 1)"), "Share of labels left out, which guidance by them needs."),
  ),
  **section("teacher.optimizer", **_OPTIMIZER),
  **_of(
    "texts",
    section(
      "reference",
      **_TRAINING,
      workdir=Field(Text(), 'Take the model from another run; "" is this one.'),
      gpt2=Field(Text(), "Take GPT-2 from a folder with its config.json and model.safetensors."),
    )
    | section("reference.optimizer", **_OPTIMIZER),
  ),
  **section(
    "distill",
    **_TRAINING,
    method=Field(
      Choice(tuple(registry.METHODS)),
      "How to distil; its settings are in sections of their own. See docs/methods.md.",
    ),
    teacher=Field(
      Choice(("network", "exact")),
      "exact is the true E[x | z_t], known for coins, mixture and hmm.",
    ),
    teacher_workdir=Field(Text(), 'Take the teacher from another run; "" is this one.'),
    updates=Field(
      Choice(("alternate", "joint")),
      "alternate: one generator update, then `auxiliary_updates`, each with its own rollout (the"
      " paper) | joint: both from one rollout.",
    ),
    auxiliary_updates=Field(Whole(1, 1000), "Auxiliary updates per generator update."),
    noise=Field(
      Choice(("none", "gaussian", "pyramid", "latent")),
      "Input of the student: gaussian (per position) | pyramid (images) | latent (per example).",
    ),
    noise_dim=Field(Whole(1, 2**16), "Numbers per position, maps per resolution, or features."),
    noise_scale=Field(
      Real("(0, 1000]"),
      "Standard deviation. A joint choice can settle in the noise, or in the weights once and for"
      " all, which loses modes; both grow from zero, the first with the square of this scale.",
    ),
    student_nfe=Field(Whole(1, _MOST_TIMES), "k, the sampling steps that the student is made for."),
    teacher_dtype=Field(DTYPE, "Of the frozen parameters; bfloat16 takes half the memory."),
    guidance=Field(
      Real("[0, 100]"),
      "w of classifier-free guidance of the teacher: by labels, in two evaluations, or where it"
      " knows none by the tokens that it sees, against its prediction at masks alone.",
    ),
    temperature=Field(_TEMPERATURE, "The teacher is distilled as it would be sampled."),
    top_p=Field(
      Real("(0, 1]"), "Probability of the likeliest tokens, which the teacher is cut to."
    ),
    top_p_penalty=Field(Real("(0, 100]"), "Nats that excluded tokens lose (the paper's Delta)."),
    from_prior=Field(Flag(), "Whether t = 1 always, the one-step setting of DiMO."),
    lora_rank=Field(
      Whole(0, 2**16),
      "Rank of the changes to the teacher that student and auxiliary are; 0: whole networks.",
    ),
  ),
  **section("distill.student_optimizer", **_OPTIMIZER),
  **section("distill.auxiliary_optimizer", **_OPTIMIZER),
  **section(
    "evaluate",
    teacher_nfe=Field(
      _NFE,
      "Numbers of steps in which the teacher samples; guided by labels each is two evaluations.",
    ),
    student_nfe=Field(_NFE, "Numbers of steps in which the student samples."),
    num_sample_batches=Field(Whole(1, 2**20), "Batches of samples; they give the errors."),
    sample_batch_size=Field(
      Whole(0, 2**20), "Samples of a batch; 0 is as many as the held-out split has."
    ),
    sampler=Field(
      Choice(tuple(samplers.SAMPLERS)),
      "How the teacher samples; its settings are in a section of its name. See docs/samplers.md.",
    ),
    student_sampler=Field(
      Choice(tuple(samplers.SAMPLERS)),
      "How the student samples, unless its method has a way of its own; if it is the teacher's"
      " sampler, with the same settings.",
    ),
    grid=Field(
      Choice(samplers.GRIDS),
      "Times of the steps: even | cosine (small steps first) | log_snr (even in log alpha/beta) |"
      " own (`times`).",
    ),
    times=Field(
      Or(Items(Real("[0, 1]")), (), "none"),
      "Own grid: times from 1 down to 0, evenly spread over the steps, on straight lines between.",
    ),
    last_step=Field(
      Choice(("drawn", "greedy")), "Whether the last step draws tokens, or takes the likeliest."
    ),
    split=Field(
      Choice(("held_out", "validation")),
      "What samples are compared with; settings are chosen on validation.",
    ),
    teacher_temperature=Field(_TEMPERATURE, "At which the teacher samples."),
    teacher_top_p=Field(Real("(0, 1]"), "As `distill.top_p`, when the teacher samples."),
    teacher_guidance=Field(Real("[0, 100]"), "As `distill.guidance`, when the teacher samples."),
    brief=Field(
      Flag(),
      "Whether to leave out all but teacher and student: autoregressive model, likelihoods, film.",
    ),
    inception=Field(
      Text(),
      "InceptionV3 of the FID literature, a file; without it distances use a classifier.",
      ("optional",),
    ),
  ),
}
