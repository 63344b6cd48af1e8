"""Checks of what methods and samplers say of their own settings, which come last.

They are imported then, and jax with them: what is wrong elsewhere has been found before.
"""

import dataclasses
from collections.abc import Iterable

from ml_collections import ConfigDict

from dmmd_jax.config_file import ConfigError, check_settings, require, shown
from dmmd_jax.diffusion import registry as samplers
from dmmd_jax.distillation import registry
from dmmd_jax.settings import is_setting


def check(config: ConfigDict, shape: tuple[int, ...], given: Iterable[str]) -> None:
  """Completes a config whose examples are `shape`, and checks it; `given` are set by hand.

  Raises `ConfigError`.
  """
  complete(config)
  _check_settings(config, given)
  _check_method(config, shape)
  _check_samplers(config, shape)


def _check_settings(config: ConfigDict, given: Iterable[str]) -> None:
  """Settings that are given are those of what is chosen; a file may have those of others."""
  distill, evaluate = config.distill, config.evaluate
  whose = {
    "distill": f"distill.method is {distill.method}",
    "evaluate": f"the samplers are {' and '.join(dict.fromkeys(_samplers(config).values()))}",
  }
  own = {"distill": registry.settings(registry.find(distill.method)), "evaluate": evaluate}
  for field in filter(is_setting, given):
    owner, section, _ = field.split(".")
    sections = [name for name in own[owner] if owner == "distill" or name in samplers.SAMPLERS]
    require(
      section in sections,
      f"{field} is given, and {whose[owner]}, which has no such setting; its sections are:"
      f" {', '.join(f'{owner}.{name}' for name in sections) or 'none'}",
    )


def _check_method(config: ConfigDict, shape: tuple[int, ...]) -> None:
  distill, method = config.distill, registry.find(config.distill.method)
  require(
    distill.noise in method.noises,
    f"distill.noise is {shown(distill.noise)}; for {distill.method} set it to"
    f" {' or '.join(map(shown, method.noises))}",
  )
  require(
    not distill.lora_rank or getattr(method, "takes_low_rank", False),
    f"distill.lora_rank is {distill.lora_rank}; {distill.method} trains whole networks only: set it"
    " to 0",
  )
  for problem in method.problems(config, shape):
    raise ConfigError(problem)


def _check_samplers(config: ConfigDict, shape: tuple[int, ...]) -> None:
  evaluate = config.evaluate
  for name in _samplers(config).values():
    check_sampler(name, evaluate.get(name, {}), config, shape, evaluate.last_step)
  chosen = evaluate.student_sampler, evaluate.grid, evaluate.last_step
  require_common_sampler(config.distill.method, *chosen)


def check_sampler(
  name: str, settings: dict, config: ConfigDict, shape: tuple[int, ...], last_step: str
) -> None:
  """Raises `ConfigError` for a sampler that a config with examples of a `shape` cannot use."""
  cls, process = samplers.find(name), config.process.name
  require(
    process in cls.processes,
    f"the sampler is {shown(name)} and process.name is {shown(process)}; {name} is for"
    f" {' and '.join(cls.processes)}: use ancestral or psi",
  )
  require(
    last_step == "drawn" or not cls.stops_early,
    f"the sampler is {shown(name)} and last_step {shown(last_step)}; it is complete before its last"
    " step: use tokens='likeliest', which are taken at all steps",
  )
  for problem in cls(**settings).problems(config, shape):
    raise ConfigError(problem)


def require_common_sampler(method: str, sampler: str, grid: str, last_step: str) -> None:
  """Raises `ConfigError` for a sampler, grid or last step where the method brings its own."""
  has_own = hasattr(registry.find(method), "sample")
  found = (
    ("sampler", sampler, "ancestral"),
    ("grid", grid, "even"),
    ("last step", last_step, "drawn"),
  )
  for name, value, common in found:
    require(
      value == common or not has_own,
      f"the student's {name} is {shown(value)}; a student of {method} is drawn in a way of its own:"
      f" leave it at {common}",
    )


def _samplers(config: ConfigDict) -> dict[str, str]:
  """The samplers of a config by the fields that name them."""
  return {f"evaluate.{n}": config.evaluate[n] for n in ("sampler", "student_sampler")}


def complete(config: ConfigDict) -> None:
  """Completes the settings of what is chosen by its defaults, and leaves out those of others.

  Raises `ConfigError` for values out of range.
  """
  check_settings(config)
  own = registry.settings(registry.find(config.distill.method))
  _complete(config.distill, own, registry.sections())
  chosen, known = {*_samplers(config).values()}, samplers.sections()
  _complete(config.evaluate, {n: cls for n, cls in known.items() if n in chosen}, known)


def _complete(section: ConfigDict, own: dict[str, type], known: dict[str, type]) -> None:
  with section.unlocked():
    for name in {*section} & (known.keys() - own.keys()):
      del section[name]
    for name, cls in own.items():
      section[name] = dataclasses.asdict(cls()) | section.get(name, ConfigDict()).to_dict()
