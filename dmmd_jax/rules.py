"""Rules for the values of fields: types and ranges, in words and in code. Pure Python."""

import ast
import dataclasses
import struct
import warnings
from typing import Any, Protocol

# Steps, batches and sizes are counted in int32.
_INT32 = 2**31 - 1


class Rule(Protocol):
  """What a field may be; `str` of a rule completes the sentence "expected ..."."""

  def accepts(self, value: object) -> bool: ...

  def read(self, text: str) -> object:
    """The value that a text on the command line stands for; the text itself where there is none."""


def _literal(text: str) -> object:
  try:
    with warnings.catch_warnings(action="ignore"):  # of odd Python, which is refused anyway
      return ast.literal_eval(text.strip())
  except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
    return text


@dataclasses.dataclass(frozen=True)
class Whole:
  """An int from `low` to `high`; True and 2.0 are none."""

  low: int = 0
  high: int = _INT32

  def accepts(self, value: object) -> bool:
    is_int = isinstance(value, int) and not isinstance(value, bool)
    return is_int and self.low <= value <= self.high

  def read(self, text: str) -> object:
    return _literal(text)

  def __str__(self) -> str:
    if self.high == _INT32:
      return f"a whole number (int32) of at least {self.low}"
    return f"a whole number from {self.low} to {self.high}"


@dataclasses.dataclass(frozen=True)
class Real:
  """A float or int in an interval such as `[0, 1)`, after rounding to float32, which is used."""

  interval: str

  def accepts(self, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
      return False
    low, high = map(float, self.interval[1:-1].split(","))
    try:
      (value,) = struct.unpack("f", struct.pack("f", value))
    except (OverflowError, struct.error):  # the latter of ints beyond any float
      return False
    above = value >= low if self.interval[0] == "[" else value > low
    below = value <= high if self.interval[-1] == "]" else value < high
    return above and below  # neither holds of NaN

  def read(self, text: str) -> object:
    value = _literal(text)
    return float(value) if type(value) is int and abs(value) <= _INT32 else value

  def __str__(self) -> str:
    low, high = self.interval[1:-1].split(", ")
    if high == "inf":
      above = "of at least" if self.interval[0] == "[" else "above"
      return f"a finite number (float32) {above} {low}"
    return f"a number (float32) in {self.interval}"


@dataclasses.dataclass(frozen=True)
class Flag:
  """True or False."""

  def accepts(self, value: object) -> bool:
    return isinstance(value, bool)

  def read(self, text: str) -> object:
    return {"true": True, "1": True, "false": False, "0": False}.get(text.lower(), text)

  def __str__(self) -> str:
    return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
  """A string of printable characters; may be empty."""

  def accepts(self, value: object) -> bool:
    return isinstance(value, str) and value.isprintable()

  def read(self, text: str) -> object:
    return text

  def __str__(self) -> str:
    return "a string of printable characters"


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of several strings, or of several ints."""

  names: tuple[str, ...] | tuple[int, ...]

  def accepts(self, value: object) -> bool:
    return type(value) is type(self.names[0]) and value in self.names

  def read(self, text: str) -> object:
    return text.strip("'\"")

  def __str__(self) -> str:
    return f"one of {', '.join(map(str, self.names))}"


@dataclasses.dataclass(frozen=True)
class Items:
  """A tuple of values that follow one rule: `length` of them, or any number above zero.

  On the command line a lone value is a tuple of one, and commas separate several.
  """

  of: Rule
  length: int | None = None
  distinct: bool = False

  def accepts(self, value: object) -> bool:
    return (
      isinstance(value, tuple)
      and len(value) == (self.length or max(len(value), 1))
      and all(map(self.of.accepts, value))
      and not (self.distinct and len(set(value)) < len(value))
    )

  def read(self, text: str) -> object:
    value = _literal(text)
    if value is text:  # names without quotes
      text = text.strip()
      inside = text[1:-1] if text[:1] + text[-1:] in ("()", "[]") else text
      return tuple(self.of.read(part.strip()) for part in inside.split(",") if part)
    return tuple(value) if isinstance(value, tuple | list) else (value,)

  def __str__(self) -> str:
    number = self.length or "one or more"
    return f"a tuple of {number}, each {self.of}" + (", none twice" if self.distinct else "")


@dataclasses.dataclass(frozen=True)
class Row:
  """A tuple with a rule for each of its places."""

  names: tuple[str, ...]
  rules: tuple[Rule, ...]

  def accepts(self, value: object) -> bool:
    return (
      isinstance(value, tuple)
      and len(value) == len(self.rules)
      and all(rule.accepts(item) for rule, item in zip(self.rules, value, strict=True))
    )

  def read(self, text: str) -> object:
    return _literal(text)

  def __str__(self) -> str:
    places = (f"{name} {rule}" for name, rule in zip(self.names, self.rules, strict=True))
    return f"({'; '.join(places)})"


@dataclasses.dataclass(frozen=True)
class Or:
  """What a rule accepts, or one value that stands for something else."""

  rule: Rule
  value: object
  meaning: str

  def accepts(self, value: object) -> bool:
    is_own = type(value) is type(self.value) and value == self.value
    return is_own or self.rule.accepts(value)

  def read(self, text: str) -> object:
    return self.rule.read(text)

  def __str__(self) -> str:
    return f"{self.rule}, or {self.value!r} for {self.meaning}"


def setting(default: object, rule: Rule, doc: str) -> Any:
  """A field of a dataclass of settings, with what it may be and what it means."""
  return dataclasses.field(default=default, metadata={"rule": rule, "doc": doc})


@dataclasses.dataclass(frozen=True)
class Field:
  """A field's rule and meaning.

  `kinds` are the networks, or kinds of data sets, that have it; without any every config has it.
  """

  rule: Rule
  doc: str
  kinds: tuple[str, ...] = ()


def section(section: str, /, **fields: Field) -> dict[str, Field]:
  return {f"{section}.{name}": field for name, field in fields.items()}
