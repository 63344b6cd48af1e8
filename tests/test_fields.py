"""The rules of fields, and that their choices are those of the code."""

import importlib.util
import math

import jax
import numpy as np
import pytest

from configs import digits_dmmd
from dmmd_jax import config, optimization
from dmmd_jax.data import alphabets
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.fields import FIELDS
from dmmd_jax.networks import layers, noise
from dmmd_jax.phases import build
from dmmd_jax.rules import Choice, Flag, Items, Real, Row, Text, Whole
from dmmd_jax.settings import everything

PAIR = Row(("size", "weights"), (Whole(1), Items(Real("(0, inf)"))))


@pytest.mark.parametrize(
  ("rule", "right", "wrong"),
  [
    (Whole(1, 8), (1, 8), (0, 9, -1, 2.0, True, None, "3", math.nan, np.int32(3), (1,))),
    (Whole(1), (2**31 - 1,), (2**31, 10**30)),  # int32
    (Real("[0, 1)"), (0, 0.0, 0.5), (1, 1.0, -0.5, math.nan, math.inf, True, None, "0", (0.5,))),
    (Real("[0, 1)"), (1 - 1e-7,), (1 - 1e-9,)),  # which is 1 in float32
    (Real("(0, inf)"), (1e-30, 1e30), (0.0, 1e-50, 1e50, 10**400, math.inf)),
    (Real("(0, 1]"), (1.0, 1e-30), (0.0, 1.1)),
    (Flag(), (True, False), (0, 1, None, "true")),
    (Text(), ("", "~/a b"), (None, 3, b"a", "a\nb", "\0", "\udcff")),
    (Choice(("a", "b")), ("a", "b"), ("", "ab", "A", None, 3, ("a",), ["a"])),
    (Choice((1, 3)), (1, 3), (2, True, "1", 1.0)),
    (Items(Whole(1)), ((1,), (1, 2, 1)), ((), 1, [1], (0,), (1.0,), ((1,),), None, "12")),
    (Items(Whole(1), 2), ((1, 1),), ((1,), (1, 2, 3))),
    (Items(Whole(1), distinct=True), ((1, 2),), ((1, 1),)),
    (PAIR, ((1, (2.0,)),), ((1, 2.0), (1, ()), (0.5, (2.0,)), (1,), (1, (2.0,), 3), 1, "ab")),
  ],
)
def test_rules(rule, right, wrong):
  assert all(rule.accepts(value) for value in right)
  assert [value for value in wrong if rule.accepts(value)] == []
  assert str(rule)


@pytest.mark.parametrize(
  ("rule", "text", "value"),
  [
    (Whole(), "-12", -12),
    (Whole(), "1_000", 1000),
    (Whole(), "1e3", 1000.0),  # which the rule refuses
    (Whole(), r"'\d'", r"\d"),  # of which Python would warn
    (Real("[0, 1)"), "1e-3", 1e-3),
    (Real("[0, 1)"), "0", 0.0),
    (Real("[0, 1)"), "nan", "nan"),
    (Real("[0, 1)"), "True", True),
    (Flag(), "true", True),
    (Flag(), "False", False),
    (Flag(), "maybe", "maybe"),
    (Text(), "3", "3"),
    (Choice(("a", "b")), "'a'", "a"),
    (Items(Whole()), "(1,2)", (1, 2)),
    (Items(Whole()), "[1,2]", (1, 2)),
    (Items(Whole()), "1,2", (1, 2)),
    (Items(Whole()), "4", (4,)),
    (Items(Whole()), "", ()),
    (Items(Whole()), "(1,", ("(1",)),  # which is refused
    (Items(Choice(("a", "b"))), "a, b", ("a", "b")),
    (Items(Choice(("a", "b"))), "('a',)", ("a",)),
    (Items(PAIR), "((1,(2.0,)),)", ((1, (2.0,)),)),
  ],
)
def test_texts_of_the_command_line(rule, text, value, recwarn):
  read = rule.read(text)
  assert read == value and type(read) is type(value)
  assert not recwarn.list


def test_every_field_is_explained():
  assert all(field.doc.strip().endswith(".") and str(field.rule) for field in everything().values())


def choices(field: str) -> tuple[str, ...]:
  rule = FIELDS[field].rule
  return (rule.of if isinstance(rule, Items) else rule).names


def test_choices_are_the_names_of_registries():
  assert set(choices("network.remat")) == {"none", *layers._REMAT_POLICIES}
  assert choices("phases") == config.PHASES
  assert all(importlib.util.find_spec(f"dmmd_jax.phases.{phase}") for phase in config.PHASES)


def process_of(name: str):
  c = digits_dmmd.get_config()
  c.process.name = name
  images = np.zeros((4, 8, 8, 1), np.int32)
  return build.make_process(c, Dataset(images, images, 17))


def schedule_of(name: str):
  c = digits_dmmd.get_config()
  c.process.schedule = name
  images = np.zeros((4, 8, 8, 1), np.int32)
  return build.make_process(c, Dataset(images, images, 17)).schedule


def network_of(name: str):
  images = np.zeros((4, 8, 8, 1), np.int32)
  c = digits_dmmd.get_config()
  if name != "transformer":
    for field in [name for name, field in FIELDS.items() if "transformer" in field.kinds]:
      del c.network[field.removeprefix("network.")]
  c.network.name = name
  return type(build.make_network(c, Dataset(images, images, 17), 18))


def decay_of(name: str):
  c = digits_dmmd.optimizer(0.1, name, 0.9, 0.99)
  optimization.make_optimizer(c, 10)
  return name


def noise_of(name: str):
  drawn = noise.sample_noise(jax.random.key(0), name, 2, (4, 4, 1), 3)
  return None if drawn is None else (drawn.shape, bool((drawn == drawn[:, :1, :1]).all()))


def alphabet_of(name: str):
  if name in ("gpt2", "file"):
    with pytest.raises(alphabets.TextError, match="no tokenizer in"):
      alphabets.make_tokenizer(name, "error", "absent")
    return name
  return alphabets.make_tokenizer(name, "error", "")


@pytest.mark.parametrize(
  ("field", "make"),
  [
    ("process.name", process_of),
    ("process.schedule", schedule_of),
    ("network.name", network_of),
    ("teacher.optimizer.decay", decay_of),
    ("distill.noise", noise_of),
    ("dataset.alphabet", alphabet_of),
  ],
)
def test_every_choice_makes_something_of_its_own(field, make):
  made = [make(name) for name in choices(field)]
  assert len(set(made)) == len(made)
