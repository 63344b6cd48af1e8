"""Fields of configs as nested dicts: selected, compared, read back from JSON. Pure Python."""

import functools
from typing import Any

from ml_collections import ConfigDict

# Fields of sections that a record has whole.
_WHOLE = {"num_steps", "learning_rate", "teacher_nfe"}


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


def select(config: ConfigDict, names: tuple[str, ...], leave_out: set[str]) -> dict[str, Any]:
  """The sections and fields `names` of a config, as nested dicts, without those to leave out."""
  flat = _flatten(config.to_dict())
  selected = {}
  for field, value in flat.items():
    if field not in leave_out and any(f"{field}.".startswith(f"{name}.") for name in names):
      *sections, last = field.split(".")
      section = functools.reduce(lambda inner, s: inner.setdefault(s, {}), sections, selected)
      section[last] = value
  return selected


def without_places_of_data(value: Any) -> Any:
  """Nested dicts, however deep a config is in them, without the path of its data.

  A record has it, to load them from; two that differ in it alone are of the same data.
  """
  if not isinstance(value, dict):
    return value
  value = {name: without_places_of_data(inner) for name, inner in value.items()}
  if isinstance(value.get("dataset"), dict):
    value["dataset"].pop("path", None)
  return value


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
  flat = {}
  for name, value in values.items():
    inner = _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else None
    flat |= {f"{prefix}{name}": value} if inner is None else inner
  return flat


def renamed(value: Any, names: dict[str, str]) -> Any:
  """Nested dicts, however deep a config is in them, with new for old names of fields."""
  if not isinstance(value, dict):
    return value
  value = {name: renamed(inner, names) for name, inner in value.items()}
  for old, new in names.items():
    *sections, last = old.split(".")
    found = _inside(value, sections)
    if isinstance(found, dict) and last in found:
      *sections, new = new.split(".")
      functools.reduce(lambda v, s: v.setdefault(s, {}), sections, value)[new] = found.pop(last)
  return value


def completed(value: Any, fields: dict[str, Any]) -> Any:
  """Nested dicts, however deep a config is in them, with `fields` that a section of it lacks.

  One that another phase has recorded is not whole: it has none of `_WHOLE`.
  """
  if not isinstance(value, dict):
    return value
  value = {name: completed(inner, fields) for name, inner in value.items()}
  for field, default in fields.items():
    *sections, last = field.split(".")
    found = _inside(value, sections)
    if isinstance(found, dict) and found.keys() & _WHOLE:
      found.setdefault(last, default)
  return value


def _inside(value: dict, sections: list[str]) -> Any:
  return functools.reduce(lambda v, s: v.get(s) if isinstance(v, dict) else None, sections, value)


def with_tuples(value):
  """JSON's lists as the tuples that they were in the config."""
  if isinstance(value, dict):
    return {name: with_tuples(inner) for name, inner in value.items()}
  return tuple(map(with_tuples, value)) if isinstance(value, list) else value
