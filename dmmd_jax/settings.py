"""Fields of a config by name, with those that methods of distillation and samplers declare."""

import dataclasses

from dmmd_jax.diffusion import registry as samplers
from dmmd_jax.distillation import registry as methods
from dmmd_jax.fields import FIELDS
from dmmd_jax.rules import Field

# Where sections of settings stand, and whose they are.
_OWNERS = {"distill": methods, "evaluate": samplers}


def is_setting(name: str) -> bool:
  """Whether a name is that of a setting of a method or a sampler, if one has it."""
  section = name.partition(".")[0]
  return section in _OWNERS and name.count(".") == 2 and name not in FIELDS


def settings() -> dict[str, Field]:
  """The settings of all methods and samplers, which are imported, and jax with them."""
  return {
    f"{owner}.{section}.{setting.name}": Field(**setting.metadata)
    for owner, registry in _OWNERS.items()
    for section, cls in registry.sections().items()
    for setting in dataclasses.fields(cls)
    if setting.metadata
  }


def everything() -> dict[str, Field]:
  """All fields and settings in the order of a config."""
  found = FIELDS | settings()
  sections = list(dict.fromkeys(name.partition(".")[0] for name in FIELDS))
  return dict(sorted(found.items(), key=lambda item: sections.index(item[0].partition(".")[0])))


def find(name: str) -> Field | None:
  """The field of a name, if there is one."""
  return settings().get(name) if is_setting(name) else FIELDS.get(name)
