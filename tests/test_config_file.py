"""Config files, presets and overrides, in the process of the test."""

import os
import sys

import pytest

from dmmd_jax import config as checks
from dmmd_jax import config_file

DIGITS = "configs/digits_dmmd.py"
USERS = """
from configs import digits_dmmd

def get_config({parameters}):
  config = digits_dmmd.get_config()
  {line}
  return config
"""


def load(*argv, path=DIGITS):
  overrides, others = config_file.split(list(argv))
  assert not others
  config, given = config_file.load(path, overrides)
  checks.apply_preset(config, given)
  checks.check(config)
  return config


def users(tmp_path, line="", parameters=""):
  path = tmp_path / "mine.py"
  path.write_text(USERS.format(line=line, parameters=parameters))
  return str(path)


def error_of(*argv, path=DIGITS):
  with pytest.raises(checks.ConfigError) as error:
    load(*argv, path=path)
  message = str(error.value)
  assert "\n" not in message and "\\" not in message and len(message) < 400
  return message


def test_a_config_is_what_its_file_says_now(tmp_path, monkeypatch):
  """Bytecode from a moment before would be taken for it: same size, same second."""
  monkeypatch.setattr(sys, "dont_write_bytecode", False)
  folder = tmp_path / "configs"
  (folder / "old").mkdir(parents=True)
  importing, deeper = folder / "theirs.py", folder / "with_old.py"
  importing.write_text("from configs.mine import get_config\n")
  deeper.write_text("from configs.old.mine import get_config\n")
  for seed in (1, 2):
    path, old = (users(f, f"config.run.seed = {seed}") for f in (folder, folder / "old"))
    for file in (path, old):
      os.utime(file, (10**9, 10**9))
    for file in (path, importing, deeper):
      assert load(path=str(file)).run.seed == seed
  assert not list(folder.rglob("__pycache__"))


def test_command_lines_are_split():
  argv = "main --config=a.py --config.x=1 --workdir w -config.y.z -2 --config.x=2"
  argv += " --noconfig.u --config.run.tensorboard --config.v=a=b"
  overrides, others = config_file.split(argv.split())
  assert others == ["main", "--config=a.py", "--workdir", "w"]
  assert overrides == {"x": "2", "y.z": "-2", "u": "false", "run.tensorboard": "true", "v": "a=b"}


def test_the_last_of_several_values_holds():
  config = load(
    "--config.phases=('teacher',)", "--config.phases=distill,evaluate",
    "--config.evaluate.student_nfe=(1,2)", "--config.evaluate.student_nfe=4",
    "--config.distill.student_nfe=2", "--config.distill.student_nfe", "3",
    "--noconfig.run.tensorboard",
  )  # fmt: skip
  assert config.phases == ("distill", "evaluate")
  assert config.evaluate.student_nfe == (4,)
  assert config.distill.student_nfe == 3 and config.run.tensorboard is False


def test_old_names_of_fields_are_read(tmp_path, capsys):
  lines = (
    "config.distill.steps = 3; config.evaluate.block_size = 7",
    "config.presets = {'quick': {'distill': {'steps': 5}}}",
  )
  path = users(tmp_path, "; ".join(lines))
  config = load("--config.evaluate.num_blocks=9", path=path)
  assert config.distill.student_nfe == 3 and "steps" not in config.distill
  assert (config.evaluate.num_sample_batches, config.evaluate.sample_batch_size) == (9, 7)
  assert capsys.readouterr().err.count("distill.steps is called distill.student_nfe now") == 2
  assert load("--config.preset=quick", path=path).distill.student_nfe == 5


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    ("--config.teacher.num_steps=many", "teacher.num_steps is 'many'; expected a whole number"),
    ("--config.teacher.num_steps=", "teacher.num_steps is ''; expected a whole number"),
    ("--config.teacher.num_steps=1e3", "teacher.num_steps is 1000.0; expected a whole number"),
    ("--config.teacher.num_steps", "--config.teacher.num_steps has no value"),
    ("--config.run.seed=-1", "run.seed is -1; expected a whole number from 0 to 4294967292"),
    ("--config.run.tensorboard=maybe", "run.tensorboard is 'maybe'; expected True or False"),
    ("--config.teacher.ema=True", "teacher.ema is True; expected a number"),
    ("--config.distill.temperature=inf", "distill.temperature is 'inf'; expected a number"),
    ("--config.distill.noise_scale=True", "distill.noise_scale is True; expected a number"),
    ("--config.teacher.optimizer.b1=-.5", "teacher.optimizer.b1 is -0.5; expected a number"),
    ("--config.teacher.optimizer.warmup_steps=-5", "warmup_steps is -5; expected a whole"),
    ("--config.distill.student_optimizer.learning_rate=1e999", "learning_rate is inf; expected"),
    ("--config.distill.score.scales=((.5,1,(1.,)),)", "scales is ((0.5, 1, (1.0,)),); expected"),
    ("--config.process.name=", "process.name is ''; expected one of masked, uniform"),
    ("--config.process.name=maskd", "masked, uniform, marginal; did you mean masked?"),
    ("--config.phases=teacher,distil", "evaluate, none twice; did you mean distill?"),
    ("--config.process.name=a\nb\\'", "process.name is 'a b'; expected one of"),
    ("--config.phases=(", "phases is ('(',); expected a tuple"),
    ("--config.teacher.steps=3", "no field teacher.steps; did you mean teacher.num_steps?"),
    ("--config.distill.sdtt.round=3", "did you mean distill.sdtt.rounds"),
    ("--config.learning_rate=3", "did you mean distill.auxiliary_optimizer.learning_rate or "),
    ("--config.teacher.num_steps.x=3", "no field teacher.num_steps.x; did you mean teacher.num_"),
    ("--config.zzz=3", "the config has no field zzz"),
    ("--config.teacher=3", "teacher is a section; set a field of it, such as teacher.batch_size"),
    ("--config.teacher.optimizer=3", "teacher.optimizer is a section"),
    ("--config.preset=fast", "preset is 'fast'; this config has none"),
    ("--config.evaluate.student_nfe=[1,2", "evaluate.student_nfe is ('[1', 2); expected a tuple"),
  ],
)
def test_wrong_overrides_are_one_line(argv, message):
  assert message in error_of(argv)


@pytest.mark.parametrize(
  ("line", "message"),
  [
    ("config.teacher.num_step = 5", "has a field teacher.num_step, which nothing uses; did you me"),
    ("del config.teacher.num_steps", "the config has no teacher.num_steps; expected a whole"),
    ("del config.teacher", "the config has no teacher.num_steps; expected a whole number"),
    ("del config.teacher; config.teacher = {}", "the config has no teacher.num_steps"),
    ("config.update_from_flattened_dict({'network.width': None})", "network.width is None"),
    ("del config.teacher; config.teacher = 5", "teacher is 5; expected a section"),
    ("del config.run.seed; config.run.seed = {}", "run.seed is {}; expected a whole number"),
    ("del config.run.mesh; config.run.mesh = [1, 1, 1]", "run.mesh is [1, 1, 1]; expected a tuple"),
    ("config.network.width = 'wide'", "mine.py, line 6: TypeError"),
    ("config.presets = {'quick': {'teacher': {'num_steps': '5'}}}", "num_steps is '5'; expected"),
    (
      "config.presets = {'quick': {'teacher': {'steps': 5}}}",
      "a field presets.quick.teacher.steps",
    ),
    (
      "config.presets = {'quick': {'teacher': 5}}",
      "presets.quick.teacher is 5; expected a section",
    ),
    ("config.presets = {'quick': 5}", "presets.quick is 5; expected a section"),
    ("config.presets = 5", "presets is 5; expected a section"),
    ("config.presets = {'quick': {'dataset': {'length': 8}}}", "the config has no dataset.length"),
    ("return", "mine.py: get_config() returns None; expected a ConfigDict"),
    ("return {'a': 1}", "get_config() returns {'a': 1}; expected a ConfigDict"),
    ("raise KeyError('a\\nb')", "mine.py, line 6: KeyError: a b"),
    ("import absent", "mine.py, line 6: ModuleNotFoundError: No module named 'absent'"),
    ("raise SystemExit(3)", "mine.py, line 6: SystemExit: 3"),
    ("x = (", "mine.py, line 6: SyntaxError: '(' was never closed"),
  ],
)
def test_mistakes_in_a_config_of_ones_own_are_one_line(line, message, tmp_path):
  assert message in error_of(path=users(tmp_path, line))


def test_config_files_that_are_none_are_one_line(tmp_path):
  assert "no config file 'configs/digit_dmmd.py'; did you mean configs/digits_dmmd.py" in error_of(
    path="configs/digit_dmmd.py"
  )
  assert "no config file 'configs'" in error_of(path="configs")
  empty = tmp_path / "empty.py"
  empty.write_bytes(b"")
  assert "has no attribute 'get_config'" in error_of(path=str(empty))
  for content in (b"\0", b"\xff"):
    empty.write_bytes(content)
    assert f"{empty}" in error_of(path=str(empty))
  assert "takes 0 positional arguments but 1 was given" in error_of(path=f"{DIGITS}:argument")


def test_a_config_of_ones_own_runs_and_its_argument_arrives(tmp_path):
  path = users(tmp_path, "config.run.seed = int(seed)", "seed")
  config = load("--config.distill.guidance=0", path=f"{path}:7")
  assert config.run.seed == 7 and config.distill.guidance == 0.0
  assert config.is_locked


def test_a_value_of_another_type_than_the_files_is_set(tmp_path):
  """Whole numbers are fine where a float is meant; the file's type binds nobody."""
  line = "del config.distill.guidance; config.distill.guidance = 0; config.network.classes = True"
  path = users(tmp_path, line)
  assert load(path=path).distill.guidance == 0
  assert load("--config.distill.guidance=.5", path=path).distill.guidance == 0.5


def test_fields_of_presets_are_set_by_hand_and_checked():
  path = "configs/text_dmmd.py"
  config = load("--config.preset=quick", "--config.presets.quick.teacher.num_steps=7", path=path)
  assert config.teacher.num_steps == 7
  assert "has quick; did you mean quick?" in error_of("--config.preset=quik", path=path)
  message = error_of("--config.presets.quick.teacher.num_steps=0", path=path)
  assert "presets.quick.teacher.num_steps is 0; expected a whole number" in message
