"""What a config leaves to the size of the images: shape, preset and patch. Pure Python."""

import math

from ml_collections import ConfigDict

from dmmd_jax.config_file import ConfigError, apply_preset, assign, check_fields, shown

# A position of few pixels knows little, and there are many of them; one of many has much to say.
_PATCHES = range(2, 9)
_USUAL_PATCH = 4
# The preset that stands for the one of the nearest size.
AUTO = "auto"


def settle(config: ConfigDict, given: dict) -> None:
  """Sets all that has to be known before a config is checked, except for fields `given` by hand.

  `dataset.shape = ()` becomes what the headers of the files say, and windows of the kernel score
  that are larger are left out. `preset = "auto"` becomes the preset of the nearest size, whose
  fields are set as those of any other preset, and `network.patch = 0` a patch that divides the
  images. Raises `ConfigError`.
  """
  check_fields(config)
  dataset = config.dataset
  leaves_shape = dataset.get("shape") == ()
  if leaves_shape:
    assign(config, "dataset.shape", _read_shape(dataset.name, dataset.path))
  if config.preset == AUTO:
    config.preset = _nearest_preset(config)
  apply_preset(config, given)
  if "shape" in dataset and config.network.get("patch") == 0:
    config.network.patch = _fitting_patch(dataset.shape)
  if leaves_shape:
    if "distill.score.scales" not in given and "score" in config.distill:
      scales, shortest = config.distill.score.scales, min(dataset.shape[:2])
      config.distill.score.scales = tuple(scale for scale in scales if scale[0] <= shortest)
    print(_summary(config))


def _read_shape(name: str, path: str) -> tuple[int, int, int]:
  if name == "stripes":
    raise ConfigError("dataset.shape is (), and stripes have no files; set it, such as (28, 28, 1)")
  from dmmd_jax.data import images  # late: grain and NumPy take a second

  try:
    return images.shape_of(name, path)
  except images.ImageError as error:
    raise ConfigError(str(error)) from error


def _nearest_preset(config: ConfigDict) -> str:
  """The name, a side in pixels, with the smallest ratio to the longer side of the images."""
  sizes = [name for name in config.get("presets", {}) if name.isdecimal()]
  shape = config.dataset.get("shape")
  if not sizes or not shape:
    raise ConfigError(
      f"preset is 'auto' and dataset.name is {shown(config.dataset.name)}; expected images, and"
      " presets whose names are sizes"
    )
  return min(sizes, key=lambda name: abs(math.log(int(name) / max(shape[:2]))))


def _fitting_patch(shape: tuple[int, int, int]) -> int:
  height, width = shape[:2]
  fitting = [p for p in _PATCHES if height % p == 0 and width % p == 0]
  if not fitting:
    larger = (-(-side // _USUAL_PATCH) * _USUAL_PATCH for side in (height, width))
    raise ConfigError(
      f"images of {height} x {width} pixels cannot be cut into squares of {_PATCHES[0]} to"
      f" {_PATCHES[-1]} pixels; pad, crop or resize them, for instance to"
      f" {' x '.join(map(str, larger))}, or set network.patch=1, which is slow"
    )
  # Of two that are equally near the larger one, which is faster.
  return min(fitting, key=lambda p: (abs(p - _USUAL_PATCH), -p))


def _summary(config: ConfigDict) -> str:
  height, width, channels = config.dataset.shape
  preset = f", preset {config.preset}" if config.preset else ""
  patch = f", patch {config.network.patch}" if "patch" in config.network else ""
  return f"images of {height} x {width} pixels, {channels} channel(s){preset}{patch}"
