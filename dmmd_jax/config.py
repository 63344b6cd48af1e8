"""Checks of a config, before anything heavy is imported or written. Pure Python."""

from ml_collections import ConfigDict

PHASES = ("teacher", "reference", "distill", "evaluate")
DATASETS = {"digits": (8, 8, 1), "coins": (2,), "mixture": (12,)}  # shape of one example
TEXTS = ("english", "textfile", "text8", "lm1b", "openwebtext")  # of dataset.length tokens
# Any other name, where dataset.shape says what an image is like, is one of data/images.py.

_CHOICES = {
  "network.name": ("transformer", "uvit"),
  "process.name": ("masked", "uniform", "marginal"),
  "process.schedule": ("linear", "cosine", "polynomial"),
  "network.dtype": ("float32", "bfloat16"),
  "network.remat": ("none", "full", "narrow", "products"),
  "teacher.loss": ("bound", "cross_entropy"),
  "teacher.optimizer.decay": ("constant", "linear", "cosine"),
  "distill.method": ("dmmd", "kernel_score", "dmmd_kernel"),
  "distill.teacher": ("network", "exact"),
  "distill.updates": ("alternate", "joint"),
  "distill.noise": ("none", "gaussian", "pyramid"),
  "distill.loss": ("cross_entropy", "bound", "squared_error"),
  "distill.auxiliary_target": ("soft", "hard"),
  "distill.weight": ("constant", "elbo"),
  "distill.renoise": ("posterior", "forward"),
  "distill.teacher_dtype": ("float32", "bfloat16"),
  "distill.score.objective": ("conditional", "marginal"),
  "distill.score.target": ("data", "teacher"),
  "evaluate.split": ("held_out", "validation"),
  "distill.student_optimizer.decay": ("constant", "linear", "cosine"),
  "distill.auxiliary_optimizer.decay": ("constant", "linear", "cosine"),
}

_TEXT_CHOICES = {
  "dataset.alphabet": ("text8", "printable", "gpt2"),
  "dataset.unknown": ("error", "drop"),
  "reference.optimizer.decay": ("constant", "linear", "cosine"),
}

_TEXT_AT_LEAST_ONE = ("reference.num_steps", "reference.batch_size")
_TEXT_POSITIVE = ("reference.optimizer.learning_rate", "reference.optimizer.clip_norm")

_AT_LEAST_ONE = (
  "run.log_every", "run.checkpoint_every", "run.keep_checkpoints",
  "network.width", "network.depth", "network.heads", "network.embed_dim",
  "network.mlp_ratio", "teacher.num_steps", "teacher.batch_size", "teacher.microbatches",
  "distill.num_steps", "distill.batch_size", "distill.microbatches", "distill.auxiliary_updates",
  "distill.noise_dim", "distill.steps", "distill.score.num_noises", "distill.score.target_nfe",
  "evaluate.num_blocks",
)  # fmt: skip

_AT_LEAST_ZERO = ("run.data_workers", "distill.guidance", "evaluate.teacher_guidance")

_POSITIVE = (
  "process.schedule_power", "teacher.optimizer.learning_rate", "teacher.optimizer.clip_norm",
  "distill.student_optimizer.learning_rate", "distill.student_optimizer.clip_norm",
  "distill.auxiliary_optimizer.learning_rate", "distill.auxiliary_optimizer.clip_norm",
  "distill.noise_scale", "distill.dmmd_weight", "distill.temperature",
  "evaluate.teacher_temperature",
)  # fmt: skip

_UNIT = ("distill.top_p", "evaluate.teacher_top_p")
_BELOW_ONE = ("network.dropout", "teacher.label_dropout", "teacher.ema", "distill.ema")
_TEXT_BELOW_ONE = ("reference.ema",)


class ConfigError(Exception):
  """A config that cannot run; the message says what was found, expected, and what to do."""


def apply_preset(config: ConfigDict, given: dict) -> None:
  """Sets the fields of the preset that `config.preset` names, but for those `given` by hand.

  Raises `ConfigError` where the config has no such preset.
  """
  presets = config.get("presets", {})
  _require(
    config.preset in ("", *presets),
    f"preset is {config.preset!r}; this config has {', '.join(presets) or 'none'}",
  )
  if config.preset:
    _set_fields(config, presets[config.preset], given, "")


def _set_fields(config: ConfigDict, fields: ConfigDict, given: dict, prefix: str) -> None:
  for name, value in fields.items():
    if isinstance(value, ConfigDict):
      _set_fields(config[name], value, given, f"{prefix}{name}.")
    elif f"{prefix}{name}" not in given:
      config[name] = value


def example_shape(config: ConfigDict) -> tuple[int, ...]:
  """Shape of one example of the data set."""
  dataset = config.dataset
  if dataset.name in TEXTS:
    return (dataset.length,)
  return DATASETS.get(dataset.name) or dataset.shape


def check(config: ConfigDict) -> None:
  """Raises `ConfigError` for values out of range and for combinations that make no sense."""
  is_text = config.dataset.name in TEXTS
  _require(
    is_text or config.dataset.name in DATASETS or "shape" in config.dataset,
    f"dataset.name is {config.dataset.name!r}; expected one of {', '.join((*DATASETS, *TEXTS))};"
    " for images of tensorflow-datasets or your own start from configs/cifar_dmmd.py",
  )
  _require(
    not is_text or "reference" in config,
    f"dataset.name is {config.dataset.name!r}, a text; start from configs/text_dmmd.py",
  )
  _require(
    is_text or "reference" not in config.phases,
    f"phases has 'reference', a model of text, and dataset.name is {config.dataset.name!r}",
  )
  for field, choices in (_CHOICES | _TEXT_CHOICES if is_text else _CHOICES).items():
    value = _get(config, field)
    _require(value in choices, f"{field} is {value!r}; expected one of {', '.join(choices)}")
  for field in (*_AT_LEAST_ONE, *(_TEXT_AT_LEAST_ONE if is_text else ())):
    _require(_get(config, field) >= 1, f"{field} is {_get(config, field)}; expected at least 1")
  for field in (*_POSITIVE, *(_TEXT_POSITIVE if is_text else ())):
    _require(_get(config, field) > 0, f"{field} is {_get(config, field)}; expected more than 0")
  for field in _AT_LEAST_ZERO:
    _require(_get(config, field) >= 0, f"{field} is {_get(config, field)}; expected 0 or more")
  for field in _UNIT:
    value = _get(config, field)
    _require(0 < value <= 1, f"{field} is {value}; expected a probability in (0, 1]")
  for field in (*_BELOW_ONE, *(_TEXT_BELOW_ONE if is_text else ())):
    value = _get(config, field)
    _require(0 <= value < 1, f"{field} is {value}; expected a number in [0, 1)")
  for field in ("evaluate.teacher_nfe", "evaluate.student_nfe"):
    value = _get(config, field)
    _require(
      len(value) > 0 and all(isinstance(n, int) and n >= 1 for n in value),
      f"{field} is {value}; expected numbers of network evaluations, each at least 1",
    )
  if is_text:
    length = config.dataset.length
    _require(length >= 4, f"dataset.length is {length}; expected at least 4 tokens")
    _require(
      not config.reference.gpt2 or config.dataset.alphabet == "gpt2",
      f"reference.gpt2 is set and dataset.alphabet is {config.dataset.alphabet!r}; GPT-2 reads only"
      " its own byte pairs: use dataset.alphabet='gpt2', or train a reference",
    )
  unknown = [phase for phase in config.phases if phase not in PHASES]
  _require(not unknown, f"phases has {unknown}; expected some of {', '.join(PHASES)}")
  _require(len(config.phases) > 0, "phases is empty; name at least one phase to run")
  _check_combinations(config)


def _check_combinations(config: ConfigDict) -> None:
  distill = config.distill
  masked = config.process.name == "masked"
  shape = example_shape(config)
  axes = len(shape)
  sides = shape[:2]
  _check_network(config, shape)
  _check_evaluation(config)
  if distill.method != "kernel_score":
    _check_dmmd(config, masked)
  _require(
    distill.noise != "pyramid" or axes == 3,
    f"distill.noise is 'pyramid' but {config.dataset.name} are sequences; use 'gaussian'",
  )
  exact = distill.teacher == "exact"
  _require(
    not exact or config.dataset.name in ("coins", "mixture"),
    f"distill.teacher is 'exact' but the joint distribution of {config.dataset.name} is not known;"
    " use 'network'",
  )
  if distill.method != "dmmd":
    block = config.network.get("block", 0)
    blocks = (block,) if block else sides
    _check_score(distill.score, blocks, config.dataset.name)


def _check_network(config: ConfigDict, shape: tuple[int, ...]) -> None:
  network = config.network
  images = len(shape) == 3
  _require(
    network.width % ((4 if images else 2) * network.heads) == 0,
    f"network.width is {network.width}; expected a multiple of {4 if images else 2} times"
    f" network.heads ({network.heads})",
  )
  labelled = config.dataset.name not in (*TEXTS, "coins", "mixture")
  _require(
    not network.classes or labelled,
    f"network.classes is True; {config.dataset.name} has no labels",
  )
  guided = config.distill.guidance > 0 or config.evaluate.teacher_guidance > 0
  _require(
    network.classes or not guided,
    "guidance is above 0 with network.classes=False; only a network that knows classes is guided",
  )
  if network.name == "uvit":
    _check_uvit(network, shape)
  else:
    _check_transformer(config, shape)


def _check_uvit(network: ConfigDict, shape: tuple[int, ...]) -> None:
  _require(len(shape) == 3, f"network.name is 'uvit'; examples are {shape}, no images")
  _require(
    len(network.channels) > 0 and min(network.channels) >= 1 and network.res_blocks >= 1,
    f"network.channels is {network.channels} and network.res_blocks {network.res_blocks}; expected"
    " at least one resolution, and numbers of at least 1",
  )
  divisor = 2 ** len(network.channels)
  _require(
    all(side % divisor == 0 for side in shape[:2]),
    f"network.channels halves the image {len(network.channels)} times; expected sides"
    f" {shape[0]} x {shape[1]} to be multiples of {divisor}",
  )


def _check_transformer(config: ConfigDict, shape: tuple[int, ...]) -> None:
  network, sides = config.network, shape[:2]
  _require(
    network.positions in ("rotary", "learned"),
    f"network.positions is {network.positions!r}; expected one of rotary, learned",
  )
  _require(
    network.patch >= 1 and all(side % network.patch == 0 for side in sides),
    f"network.patch is {network.patch}; expected a divisor of the sides"
    f" {' x '.join(map(str, sides))} of {config.dataset.name}",
  )
  _require(
    network.block == 0
    or (
      network.block > 0
      and len(shape) == 1
      and shape[0] % network.block == 0
      and network.block % network.patch == 0
    ),
    f"network.block is {network.block}; expected 0, or for sequences a divisor of their length"
    f" ({shape[0]}) and a multiple of network.patch",
  )
  _require(
    network.conv == 0 or (network.conv > 0 and network.conv % 2 == 1 and len(shape) == 1),
    f"network.conv is {network.conv}; expected 0, or for sequences an odd number of tokens",
  )
  _require(
    not network.block or config.distill.teacher != "exact",
    "distill.teacher is 'exact' with network.block; the exact teacher does not go block by block",
  )


def _check_evaluation(config: ConfigDict) -> None:
  size = config.evaluate.block_size
  _require(
    config.evaluate.split == "held_out" or config.dataset.name in TEXTS,
    f"evaluate.split is 'validation'; {config.dataset.name} has no such split, only texts do",
  )
  _require(
    size == 0 or size >= 2,
    f"evaluate.block_size is {size}; expected 0 (the held-out split) or >= 2",
  )


def _check_dmmd(config: ConfigDict, masked: bool) -> None:
  distill = config.distill
  _require(
    masked or distill.auxiliary_target == "hard",
    f"distill.auxiliary_target is 'soft' with the {config.process.name} process; there a sample and"
    " z_s are dependent given z_t: use 'hard'",
  )
  _require(
    masked or distill.weight != "elbo",
    f"distill.weight is 'elbo' with the {config.process.name} process; it is the weight of the"
    " masked bound: use 'constant'",
  )
  _require(
    masked or distill.loss != "bound" or config.teacher.loss == "bound",
    f"distill.loss is 'bound' with the {config.process.name} process and a teacher trained with"
    " cross-entropy; train it with teacher.loss='bound', or use distill.loss='cross_entropy'",
  )
  truncated = distill.top_p < 1 or distill.temperature != 1
  _require(
    masked or distill.loss != "bound" or not truncated,
    "distill.temperature and distill.top_p act on E[x | z_t], which distill.loss='bound' does not"
    f" use with the {config.process.name} process; use distill.loss='cross_entropy'",
  )
  _require(
    distill.teacher != "exact" or masked or distill.loss != "bound",
    "distill.teacher='exact' gives E[x | z_t], which distill.loss='bound' does not use with the"
    f" {config.process.name} process; use distill.loss='cross_entropy'",
  )


def _check_score(score: ConfigDict, sides: tuple[int, ...], dataset: str) -> None:
  _require(
    score.objective == "marginal" or score.num_noises >= 2,
    "distill.score.num_noises is 1; the conditional kernel score compares outputs of at least 2",
  )
  _require(
    score.category_bandwidth >= 0,
    f"distill.score.category_bandwidth is {score.category_bandwidth}; expected 0 or more",
  )
  _require(len(score.scales) > 0, "distill.score.scales is empty; name at least one kernel")
  for scale in score.scales:
    expected = f"distill.score.scales has {scale}; expected (window, stride, bandwidths), with"
    _require(
      isinstance(scale, tuple) and len(scale) == 3 and isinstance(scale[2], tuple) and scale[2],
      f"{expected} a tuple of bandwidths",
    )
    window, stride, bandwidths = scale
    _require(
      all(0 <= window <= side for side in sides) and stride >= 1 and min(bandwidths) > 0,
      f"{expected} 0 <= window <= {min(sides)} for {dataset}, stride >= 1 and bandwidths above 0",
    )


def check_devices(config: ConfigDict, num_devices: int) -> None:
  """Raises `ConfigError` where the mesh or a batch does not fit the number of devices."""
  sizes = tuple(config.run.mesh)
  fixed = 1
  for size in sizes:
    fixed *= size if size > 0 else 1
  free = sizes.count(-1)
  _require(
    len(sizes) == 3
    and all(size > 0 or size == -1 for size in sizes)
    and (num_devices % fixed == 0 if free == 1 else free == 0 and fixed == num_devices),
    f"run.mesh is {sizes} on {num_devices} devices; expected sizes of the axes data, fsdp, tensor"
    " whose product is the number of devices, -1 standing for the rest of one axis",
  )
  data, fsdp, tensor = ((size if size > 0 else num_devices // fixed) for size in sizes)
  _require(
    config.network.heads % tensor == 0,
    f"run.mesh splits heads {tensor} ways; expected a divisor of network.heads"
    f" ({config.network.heads})",
  )
  for phase in ("teacher", "reference", "distill"):
    if phase not in config.phases:
      continue
    size, parts = config[phase].batch_size, config[phase].microbatches
    _require(
      size % (data * fsdp * parts) == 0,
      f"{phase}.batch_size is {size}; expected a multiple of the {data * fsdp} devices that share"
      f" a batch, times {phase}.microbatches ({parts})",
    )


def differences(before: dict, now: dict, prefix: str = "") -> list[str]:
  """Fields in which two nested dicts differ, each as `name: before -> now`."""
  found = []
  for name in sorted(before.keys() | now.keys()):
    old, new = before.get(name), now.get(name)
    if isinstance(old, dict) and isinstance(new, dict):
      found += differences(old, new, f"{prefix}{name}.")
    elif old != new:
      found.append(f"{prefix}{name}: {old} -> {new}")
  return found


def _get(config: ConfigDict, field: str):
  for name in field.split("."):
    config = config[name]
  return config


def _require(condition: bool, message: str) -> None:
  if not condition:
    raise ConfigError(message)
