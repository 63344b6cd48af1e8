"""Checks of the section `network` of a config. Pure Python."""

from ml_collections import ConfigDict

from dmmd_jax.config_file import require


def check_network(config: ConfigDict, shape: tuple[int, ...], labelled: bool) -> None:
  """Raises `ConfigError` for a network that does not fit examples of `shape`, labelled or not."""
  network = config.network
  images = len(shape) == 3
  require(
    network.width % ((4 if images else 2) * network.heads) == 0,
    f"network.width is {network.width}; expected a multiple of {4 if images else 2} times"
    f" network.heads ({network.heads})",
  )
  require(
    not network.classes or labelled,
    f"network.classes is True; {config.dataset.name} has no labels",
  )
  guided = config.distill.guidance > 0 or config.evaluate.teacher_guidance > 0
  # That of another run has a record of its own, at which its students' phases look.
  is_elsewhere = "teacher" not in config.phases or config.distill.teacher_workdir
  if guided and not (network.classes and is_elsewhere):
    check_guidance(config, shape)
  if network.name == "uvit":
    _check_uvit(network, shape)
    return
  patch = 1
  if network.name == "transformer":
    _check_patches(config, shape)
    patch = network.patch
  else:
    _check_pretrained(config, shape)
  if "block" in network:
    _check_blocks(config, shape, patch)


def check_guidance(config: ConfigDict, shape: tuple[int, ...]) -> None:
  """Raises `ConfigError` where the teacher of a config cannot be guided."""
  if config.network.classes:
    check_guidance_by_labels(config)
    return
  found = "guidance is above 0 with network.classes=False and"
  # Weights that suit labels are far too large for tokens: one must not pass for the other.
  require(len(shape) == 1, f"{found} images; these are guided by labels: set network.classes=True")
  require(
    config.process.name == "masked",
    f"{found} process.name '{config.process.name}'; a network that knows no classes is guided"
    " against its prediction at masks alone: use 'masked'",
  )
  require(
    config.network.get("block", 0) in (0, *shape),
    f"{found} network.block; a network of several blocks is not guided: set guidance to 0",
  )


def check_guidance_by_labels(config: ConfigDict) -> None:
  """Raises `ConfigError` where a teacher's own config left out no labels, if it knows any."""
  require(
    not config.network.classes or config.teacher.label_dropout > 0,
    "guidance is above 0, and the teacher's label_dropout 0; one that has always seen labels says"
    " nothing without them: train it with teacher.label_dropout=0.1, or set guidance to 0",
  )


def _check_uvit(network: ConfigDict, shape: tuple[int, ...]) -> None:
  require(len(shape) == 3, f"network.name is 'uvit'; examples are {shape}, no images")
  divisor = 2 ** len(network.channels)
  require(
    all(side % divisor == 0 for side in shape[:2]),
    f"network.channels halves the image {len(network.channels)} times; expected sides"
    f" {shape[0]} x {shape[1]} to be multiples of {divisor}: pad, crop or resize the images",
  )


def _check_pretrained(config: ConfigDict, shape: tuple[int, ...]) -> None:
  """What networks of token sequences need, and the times that a DiT is given."""
  network, process = config.network, config.process
  require(len(shape) == 1, f"network.name is '{network.name}'; examples are {shape}, no sequences")
  require(not network.classes, f"network.classes is True; {network.name} knows none: set it False")
  require(
    process.name in ("masked", "uniform"),
    f"process.name is '{process.name}'; {network.name} is for masked and uniform",
  )
  expected = "-1" if process.name == "uniform" else f"0 to {network.vocab_size - 1}"
  require(
    (network.mask_token >= 0) == (process.name == "masked")
    and network.mask_token < network.vocab_size,
    f"network.mask_token is {network.mask_token} and process.name '{process.name}'; expected"
    f" {expected}",
  )
  if network.name == "llama":
    require(
      process.name == "masked",
      f"process.name is '{process.name}'; llama is for 'masked', whatever the time",
    )
    require(
      network.heads % network.kv_heads == 0,
      f"network.kv_heads is {network.kv_heads}; expected a divisor of network.heads"
      f" ({network.heads})",
    )
  else:
    require(
      network.time == "none" or network.cond_dim,
      "network.time is 'sigma' and network.cond_dim 0; set it to the features of the time",
    )
    require(
      network.time == "none" or process.schedule == "linear",
      f"network.time is 'sigma' and process.schedule '{process.schedule}'; expected 'linear'",
    )


def _check_patches(config: ConfigDict, shape: tuple[int, ...]) -> None:
  network, sides = config.network, shape[:2]
  require(
    network.patch and all(side % network.patch == 0 for side in sides),
    f"network.patch is {network.patch}; expected a divisor of the sides"
    f" {' x '.join(map(str, sides))} of {config.dataset.name}",
  )
  require(
    network.conv == 0 or (network.conv % 2 == 1 and len(shape) == 1),
    f"network.conv is {network.conv}; expected 0, or for sequences an odd number of tokens",
  )


def _check_blocks(config: ConfigDict, shape: tuple[int, ...], patch: int) -> None:
  network = config.network
  fits = len(shape) == 1 and network.block and shape[0] % network.block == 0
  require(
    network.block == 0 or (fits and network.block % patch == 0),
    f"network.block is {network.block}; expected 0, or for sequences a divisor of their length"
    f" ({shape[0]}) and a multiple of network.patch",
  )
  require(
    not network.block or config.distill.teacher != "exact",
    "distill.teacher is 'exact' with network.block; the exact teacher does not go block by block",
  )
