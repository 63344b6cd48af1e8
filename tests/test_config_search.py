"""Configs are found by path and by name, from any folder, and find each other."""

import pathlib
import sys

import pytest

from dmmd_jax import config_file, config_search
from dmmd_jax.config_file import ConfigError

SHIPPED = pathlib.Path(__file__).parents[1] / "configs"
SEED = """
from configs import {base}

def get_config():
  config = {base}.get_config()
  config.run.seed = {seed}
  return config
"""


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  return tmp_path


def write(path, base, seed):
  path.parent.mkdir(exist_ok=True)
  path.write_text(SEED.format(base=base, seed=seed))


def seed(name):
  return config_file.load(name, {})[0].run.seed


def test_names_are_looked_for_here_and_then_in_the_package(elsewhere):
  assert config_search.find("coins_dmmd") == SHIPPED / "coins_dmmd.py"
  assert config_search.find("coins_dmmd.py") == SHIPPED / "coins_dmmd.py"
  write(elsewhere / "configs" / "coins_dmmd.py", "toy_dmmd", 5)
  assert config_search.find("coins_dmmd") == pathlib.Path("configs/coins_dmmd.py")
  assert config_search.names()["coins_dmmd"] == pathlib.Path("configs/coins_dmmd.py")
  write(elsewhere / "coins_dmmd.py", "toy_dmmd", 6)
  assert config_search.find("coins_dmmd") == pathlib.Path("coins_dmmd.py")
  assert config_search.find("configs/coins_dmmd") == pathlib.Path("configs/coins_dmmd.py")
  assert config_search.find("configs/digits_dmmd.py") is None
  assert config_search.names()["digits_dmmd"] == SHIPPED / "digits_dmmd.py"


def test_configs_find_those_beside_them_from_any_folder(elsewhere):
  assert config_file.load("coins_dmmd", {})[0].dataset.name == "coins"  # by way of toy and digits
  write(elsewhere / "mine.py", "coins_dmmd", 7)
  assert seed("mine") == seed("mine.py") == seed(str(elsewhere / "mine.py")) == 7


def test_configs_beside_a_config_come_before_those_of_the_current_folder(elsewhere):
  for folder, number in (("theirs", 1), (".", 2)):
    (elsewhere / folder).mkdir(exist_ok=True)
    write(elsewhere / folder / "configs" / "base.py", "digits_dmmd", number)
    (elsewhere / folder / "configs" / "top.py").write_text("from configs.base import get_config")
  assert seed("theirs/configs/top.py") == 1
  assert seed("top") == seed("configs/top.py") == 2


def test_a_config_may_have_the_name_of_the_one_that_it_builds_on(elsewhere):
  write(elsewhere / "experiments" / "coins_dmmd.py", "coins_dmmd", 8)
  assert seed("experiments/coins_dmmd.py") == 8


def test_imports_of_a_config_leave_no_trace(elsewhere):
  from configs import digits_dmmd

  before = {name for name in sys.modules if name.partition(".")[0] == "configs"}
  (elsewhere / "configs").mkdir()
  (elsewhere / "configs" / "digits_dmmd.py").write_text("def get_config(): raise ValueError(1)")
  with pytest.raises(ConfigError, match=r"configs/digits_dmmd.py, line 1: ValueError: 1"):
    config_file.load("digits_dmmd", {})
  assert {name for name in sys.modules if name.partition(".")[0] == "configs"} == before
  assert sys.modules["configs.digits_dmmd"] is digits_dmmd


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("configs/coins_dmmd.py", "no config file 'configs/coins_dmmd.py'; did you mean coins_dmmd?"),
    ("coin_dmmd", "did you mean coins_dmmd?"),
    ("mien.py", "did you mean mine.py?"),
    ("zzzz", "no config file 'zzzz'; --config without a value lists those that there are"),
  ],
)
def test_a_file_that_is_missing_is_answered_with_the_nearest(elsewhere, name, message):
  (elsewhere / "mine.py").touch()
  with pytest.raises(ConfigError) as error:
    config_file.load(name, {})
  assert str(error.value).endswith(message)
