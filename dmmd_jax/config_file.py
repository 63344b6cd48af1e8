"""A config from its file, presets and the command line, each field by itself.

Pure Python, but where a setting of a method is given: the method is imported, and jax with it.
"""

import difflib
import functools
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterable, Iterator

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from dmmd_jax import config_search
from dmmd_jax.fields import FIELDS, RENAMED
from dmmd_jax.rules import Choice, Flag, Items, Rule
from dmmd_jax.settings import find, is_setting, settings

# presets.<name>, and the dot before a field of it
_PRESET = re.compile(r"presets(\.[^.]*(\.|$)|$)")
_OVERRIDE = re.compile(r"--?(no)?config\.([^=]*)(?:=(.*))?", re.DOTALL)
_SECTIONS = {name.rpartition(".")[0] for name in FIELDS} - {""}


class ConfigError(Exception):
  """A config that cannot run; the message says what was found, expected, and what to do."""


def split(argv: list[str]) -> tuple[dict[str, str], list[str]]:
  """Texts of fields on a command line by their names, of several the last; and all other arguments.

  They are written `--config.field=text` or `--config.field text`; `--config.field` alone sets a
  field to true, and `--noconfig.field` to false. Raises `ConfigError` where the text is missing.
  """
  overrides, others = {}, []
  rest = iter(argv)
  for argument in rest:
    found = _OVERRIDE.fullmatch(argument)
    if not found:
      others.append(argument)
      continue
    negated, field, text = found.groups()
    if text is None and (negated or _is_flag(field)):
      text = "false" if negated else "true"
    elif text is None:
      text = next(rest, "--")
      require(not text.startswith("--"), f"--config.{field} has no value; write {argument}=value")
    overrides[field] = text
  return overrides, others


def _is_flag(field: str) -> bool:
  found = find(_name(field))
  return bool(found) and isinstance(found.rule, Flag)


def load(path: str, overrides: dict[str, str]) -> tuple[ConfigDict, dict[str, object]]:
  """The config of `path` with fields set from the command line, and these by name.

  `path` is found as by `config_search.find`, and may end in `:argument`, which `get_config` is
  given. `overrides` are the texts of fields. Raises `ConfigError` where there is no such file, no
  config comes out of it, or it has no such field.
  """
  config = _run(path)
  _rename_fields(config)
  given = {}
  fields = [name for name, _ in flat(config)]
  for field, text in overrides.items():
    field = _renamed(field)
    found = find(_name(field))
    if found and is_setting(field) and field not in fields:
      fields.append(field)  # whose default it has
    inside = [name for name in fields if name.startswith(f"{field}.")]
    if inside:
      raise ConfigError(f"{field} is a section; set a field of it, such as {inside[0]}")
    if field not in fields:
      known = [*fields, *(settings() if is_setting(field) else ())]
      raise ConfigError(f"the config has no field {field}{nearest(field, known)}")
    value = found.rule.read(text) if found else text
    _check_value(field, value)  # now: set in the place of a float, True would become 1.0
    given[field] = value
    assign(config, field, value)
  return config.lock(), given


def _run(path: str) -> ConfigDict:
  """What `get_config` of a file returns."""
  found, name, argument = config_search.find(path), path, ""
  if not found:
    name, _, argument = path.partition(":")
    found = config_search.find(name)
  if not found:
    raise ConfigError(f"no config file {shown(name)}{_nearest_file(name)}")
  file = str(found)
  module = types.ModuleType("config_of_run")
  module.__file__ = file
  sys.modules[module.__name__] = module
  try:
    with config_search.importable(found):
      # As it is now: Python's own bytecode beside it may be that of a moment before.
      exec(compile(found.read_bytes(), file, "exec"), module.__dict__)
      config = module.get_config(*[argument] if argument else [])
  except (Exception, SystemExit) as error:  # a config is a program, which may fail in any way
    raise ConfigError(f"{_place(error, file)}: {type(error).__name__}: {_reason(error)}") from error
  require(
    isinstance(config, ConfigDict),
    f"{file}: get_config() returns {shown(config)}; expected a ConfigDict",
  )
  return config


def _rename_fields(config: ConfigDict) -> None:
  """Moves the values of fields with old names, from the file of a user, to the new ones."""
  for field, value in list(flat(config)):
    if (new := _renamed(field)) != field:
      *sections, name = field.split(".")
      del functools.reduce(ConfigDict.__getitem__, sections, config)[name]
      assign(config, new, value)


def _renamed(field: str) -> str:
  """The name that a field has now; an old one is said."""
  old = _name(field)
  if old not in RENAMED:
    return field
  print(f"{old} is called {RENAMED[old]} now; the old name will go", file=sys.stderr)
  return field.removesuffix(old) + RENAMED[old]


def _nearest_file(name: str) -> str:
  path, known = pathlib.Path(name), config_search.names()
  others = [*map(str, path.parent.glob("*.py")), *known]
  meant = [path.stem] if path.stem in known else difflib.get_close_matches(name, others, 1)
  return _did_you_mean(meant) or "; --config without a value lists those that there are"


def _place(error: BaseException, file: str) -> str:
  """Where in its own code a config failed."""
  if isinstance(error, SyntaxError) and error.filename:
    return f"{error.filename}, line {error.lineno}"
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == file]
  return f"{file}, line {lines[-1]}" if lines else file


def _reason(error: BaseException) -> str:
  """Without what `str` adds: the place of a syntax error, the quotes of a `KeyError`."""
  is_plain = isinstance(error, SyntaxError | KeyError) and error.args
  return plain(str(error.args[0] if is_plain else error))


def apply_preset(config: ConfigDict, given: dict) -> None:
  """Sets the fields of the preset that `config.preset` names, but for those `given` by hand.

  Raises `ConfigError` where the config has no such preset, or a field of any is wrong.
  """
  check_fields(config)
  presets = config.get("presets", {})
  require(
    config.preset in ("", *presets),
    f"preset is {shown(config.preset)}; this config has {', '.join(presets) or 'none'}"
    f"{nearest_of(config.preset, presets)}",
  )
  for field, value in flat(presets[config.preset]) if config.preset else ():
    if field not in given:
      assign(config, field, value)


def assign(config: ConfigDict, field: str, value: object) -> None:
  """Sets a field, whatever the type that it has had."""
  *sections, name = field.split(".")
  with config.unlocked():
    for section in sections:
      if section not in config:
        config[section] = ConfigDict()  # of a method, whose settings may be left out
      config = config[section]
    with config.ignore_type():
      config[name] = value


def check_fields(config: ConfigDict) -> None:
  """Each field by itself, those of presets too; what every config has is there.

  Raises `ConfigError`.
  """
  for field, value in flat(config):
    name = _name(field)
    require(
      name not in _SECTIONS and not _PRESET.fullmatch(field),
      f"{field} is {shown(value)}; expected a section, with fields of its own",
    )
    if is_setting(name):
      continue  # until the method is imported
    _check_value(field, value)
    require(has(config, name), f"a preset has {field}, and the config has no {name} for it to set")
  for name, field in FIELDS.items():
    require(field.kinds or has(config, name), f"the config has no {name}; expected {field.rule}")


def check_settings(config: ConfigDict) -> None:
  """Each setting of a method by itself, those of presets too; methods are imported.

  Raises `ConfigError`.
  """
  for field, value in flat(config):
    if is_setting(_name(field)):
      _check_value(field, value)


def _check_value(field: str, value: object) -> None:
  name = _name(field)
  found = find(name)
  if not found:
    known = [*FIELDS, *(settings() if is_setting(name) else ())]
    raise ConfigError(f"the config has a field {field}, which nothing uses{nearest(name, known)}")
  rule = found.rule
  require(
    rule.accepts(value), f"{field} is {shown(value)}; expected {rule}{_nearest_choice(value, rule)}"
  )


def has(config: ConfigDict, field: str) -> bool:
  """Whether the config has a field, `section.name`."""
  first, _, rest = field.partition(".")
  return first in config and (not rest or has(config[first], rest))


def nearest(field: str, fields: Iterable[str] = FIELDS) -> str:
  """The end of a message about an unknown field: those that may have been meant."""
  last = field.rpartition(".")[2]
  same = [known for known in fields if known.rpartition(".")[2] == last]
  close = difflib.get_close_matches(field, fields, 1)
  return _did_you_mean(list(dict.fromkeys(close + same))[:3])


def _nearest_choice(value: object, rule: Rule) -> str:
  if isinstance(rule, Items):
    items = value if isinstance(value, tuple) else ()
    return next(filter(None, (_nearest_choice(item, rule.of) for item in items)), "")
  return nearest_of(value, rule.names) if isinstance(rule, Choice) else ""


def nearest_of(value: object, names: Iterable[object]) -> str:
  """The end of a message about a value that is none of some names: the one that may be meant."""
  names = [name for name in names if isinstance(name, str)]
  is_wrong = isinstance(value, str) and value not in names
  return _did_you_mean(difflib.get_close_matches(value, names, 1) if is_wrong else [])


def _did_you_mean(names: list[str]) -> str:
  return f"; did you mean {' or '.join(names)}?" if names else ""


def shown(value: object) -> str:
  """A value as messages show it."""
  return plain(f"'{value}'" if isinstance(value, str) else repr(value))


def plain(text: str) -> str:
  """A text without escapes and line breaks, and of bounded length."""
  text = " ".join(text.replace("\\n", " ").replace("\\", "").split())
  text = "".join(c if c.isprintable() else "·" for c in text)
  return text if len(text) <= 200 else f"{text[:200]}…"


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
  """All fields of a config with their values, in order; None is a value that is yet to be given."""
  for name in config:
    field = f"{prefix}{name}"
    try:
      value = config[name]
    except RequiredValueError:
      value = None
    if isinstance(value, ConfigDict) and _name(field) not in FIELDS:
      yield from flat(value, f"{field}.")
    else:
      yield field, value


def _name(field: str) -> str:
  """The field that a field of a preset sets; any other field itself."""
  return _PRESET.sub("", field) if _PRESET.match(field) else field


def require(condition: bool, message: str) -> None:
  """Raises `ConfigError` unless the condition holds."""
  if not condition:
    raise ConfigError(message)
