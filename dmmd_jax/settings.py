"""Fields of a config by name, those that methods of distillation declare among them."""

import dataclasses

from dmmd_jax.distillation import registry
from dmmd_jax.fields import FIELDS
from dmmd_jax.rules import Field


def is_setting(name: str) -> bool:
  """Whether a name is that of a setting of a method, if the method has it."""
  return name.startswith("distill.") and name.count(".") == 2 and name not in FIELDS


def settings() -> dict[str, Field]:
  """The settings of all methods, which are imported, and jax with them."""
  return {
    f"distill.{section}.{setting.name}": Field(**setting.metadata)
    for section, cls in registry.sections().items()
    for setting in dataclasses.fields(cls)
  }


def everything() -> dict[str, Field]:
  """All fields and settings in the order of a config."""
  last = {name: field for name, field in FIELDS.items() if name.startswith("evaluate.")}
  return {n: f for n, f in FIELDS.items() if n not in last} | settings() | last


def find(name: str) -> Field | None:
  """The field of a name, if there is one."""
  return settings().get(name) if is_setting(name) else FIELDS.get(name)
