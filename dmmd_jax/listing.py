"""What there is to set, in words: configs and fields, for a terminal."""

import ast
import pathlib
import textwrap
from collections.abc import Iterator

from ml_collections import ConfigDict

from dmmd_jax import config_file, config_search
from dmmd_jax.rules import Field
from dmmd_jax.settings import everything as all_fields

_WIDTH = 100


def everything() -> str:
  """All configs, and all fields by section."""
  lines = ["Configs: --config=NAME, or --config=FILE for one of your own.", ""]
  for name, file in config_search.names().items():
    lines.append(_entry(name, _first_line(file), 24))
  lines += ["", "Fields: --config=NAME --config.section.field=value."]
  lines += ["The values that a config gives them: --config=NAME --help."]
  for sections, fields in _sections():
    kinds = {field.kinds for field in fields.values()}
    common = kinds.pop() if len(kinds) == 1 else ()
    title = ", ".join(sections) + (f" (for {' and '.join(common)} only)" if common else "")
    lines += ["", title] if title else [""]
    for name, field in fields.items():
      lines.append(_entry(name, _meaning(field, () if common else field.kinds), 24))
  return "\n".join(lines)


def of_config(config: ConfigDict) -> str:
  """The fields of a config with their values; of each preset, what it sets."""
  values, lines, last = dict(config_file.flat(config)), [], None
  for name, field in all_fields().items():
    if name not in values:
      continue
    section, _, short = name.rpartition(".")
    if section != last:
      lines += ["", section] if section else []
    lines.append(_entry(f"{short} = {values[name]!r}", _meaning(field), 32))
    last = section
  for preset in config.get("presets", {}):
    fields = [f"{name} = {value!r}" for name, value in config_file.flat(config.presets[preset])]
    lines += ["", f"--config.preset={preset}", *(_fill(f"  {field}", 4) for field in fields)]
  return "\n".join(lines)


def _sections() -> Iterator[tuple[list[str], dict[str, Field]]]:
  """Sections with their fields; those that have the same ones, such as optimisers, together."""
  by_section: dict[str, dict[str, Field]] = {}
  for name, field in all_fields().items():
    section, _, last = name.rpartition(".")
    by_section.setdefault(section, {})[last] = field
  while by_section:
    fields = next(iter(by_section.values()))
    alike = [section for section, others in by_section.items() if _texts(others) == _texts(fields)]
    yield alike, fields
    for section in alike:
      del by_section[section]


def _texts(fields: dict[str, Field]) -> list[tuple[str, str, str]]:
  return [(name, field.doc, str(field.rule)) for name, field in fields.items()]


def _meaning(field: Field, kinds: tuple[str, ...] = ()) -> str:
  only = " May be left out." if kinds == ("optional",) else f" For {' and '.join(kinds)} only."
  return f"{field.doc}{only if kinds else ''} Expected: {field.rule}."


def _first_line(file: pathlib.Path) -> str:
  """That of the docstring of a config, which is not run."""
  try:
    text = ast.get_docstring(ast.parse(file.read_bytes()))
  except (SyntaxError, ValueError):
    return "(not valid Python)"
  return (text or "").partition("\n")[0]


def _entry(left: str, right: str, column: int) -> str:
  """`right` in a column of its own, from the next line on where `left` is too long."""
  if len(left) + 4 > column:
    return f"{_fill(f'  {left}', 4)}\n{_fill(' ' * column + right, column)}"
  return _fill(f"  {left}".ljust(column) + right, column).rstrip()


def _fill(text: str, indent: int) -> str:
  return textwrap.fill(
    text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
  )
