"""What `benchmarks.methods` runs, without running it."""

import argparse
import dataclasses
import importlib
import subprocess
import sys

import pytest

from benchmarks import methods, search, students
from dmmd_jax import config as checks
from dmmd_jax import records
from dmmd_jax.distillation import registry

# What is for the masked process only, and what the exact value of a teacher rules out.
MASKED_ONLY = {"sdtt", "dimo", "didi"}
# Those that on all data are trained as on digits, otherwise than D-MMD.
OF_THEIR_OWN = {"sdtt", "dcd", "redi", "di4c", "didi"}
DIGITS = "--config=configs/digits_dmmd.py"


@pytest.mark.parametrize("process", ["masked", "uniform"])
@pytest.mark.parametrize("data", methods.DATA)
def test_every_method_runs_on_all_data_or_says_why_not(data, process, monkeypatch):
  config = importlib.import_module(f"configs.{data}_dmmd").get_config()
  config.process.name, config.teacher.loss = process, "bound"
  teacher = records.Source(None, {"config": config.to_dict(), "inputs": {}})
  monkeypatch.setattr(records, "find_model", lambda *_: teacher)
  args = argparse.Namespace(teacher=["runs/teacher"], extra=[], rates="1")
  refused = set()
  for method in registry.METHODS:
    try:
      flags = methods.settings(method, methods.DATA[data], args)
    except checks.ConfigError as error:
      assert "process.name" in str(error)
      refused.add(method)
      continue
    found = search.load(search.timed(search.at_rate(flags, 2.0), (0.5, 0.01), 3.5))
    checks.check(found)
    assert (found.process.name, found.teacher.loss) == (process, "bound")
    assert found.distill.method == method and found.distill.num_steps == 300
    for section in ("dataset", "process", "network"):  # or the teacher would be refused
      assert found[section].to_dict() == config[section].to_dict()
    optimizer = found.distill.student_optimizer
    rate = search.load(flags).distill.student_optimizer.learning_rate
    assert optimizer.learning_rate == pytest.approx(2 * rate)
    if method in OF_THEIR_OWN:
      own = importlib.import_module(f"configs.digits_{method}").get_config().distill
      assert optimizer.b1 == own.student_optimizer.b1
      assert optimizer.decay == own.student_optimizer.decay
    if method in ("di4c", "didi"):  # whose examples cost many times as much
      assert found.distill.batch_size == own.batch_size
    if method == "di4c":
      for name in ("noise", "noise_dim", "noise_scale"):
        assert found.distill[name] == own[name]
      assert set(own.di4c.items()) <= set(found.distill.di4c.items())
    if method == "didi":
      assert rate == own.student_optimizer.learning_rate
  assert refused == (MASKED_ONLY if process == "uniform" else set())


def test_a_number_is_kept_by_its_name(tmp_path):
  path = tmp_path / "choices" / "dmmd.json"
  assert search.kept(path, "rate of 1", lambda: 3.0) == 3.0
  assert search.kept(path, "rate of 1", lambda: 4.0) == 3.0
  assert search.kept(path, "rate of 1,2", lambda: 5.0) == 5.0


def test_what_is_made_before_the_first_step_counts():
  with pytest.raises(checks.ConfigError, match=r"2 s before the first step, and 0\.5 s"):
    search.timed([], (2.0, 0.5), 2.4)
  assert search.timed([], (2.0, 0.5), 3.0) == ["--config.distill.num_steps=2"]


def test_each_method_is_chosen_from_what_it_can_be(tmp_path, monkeypatch):
  """Rate and rank lowest on validation data, with what a step costs; the steps; the rate again."""
  config = importlib.import_module("configs.digits_dmmd").get_config()
  teacher = records.Source(None, {"config": config.to_dict(), "inputs": {}, "digest": "5eed"})
  monkeypatch.setattr(records, "find_model", lambda *_: teacher)
  monkeypatch.setattr(search, "costs", lambda flags: (1.0, 0.1 if is_low(flags) else 0.2))
  is_low = lambda flags: "--config.distill.lora_rank=16" in flags
  tried = []
  # Best at one number of steps; in the geometric mean, though not above 0 at one; in the arithmetic
  # mean; of no value. Then the steps, and the rate with them.
  special = {
    3: (0.5, 4.0, 4.0, 4.0),
    4: (9.0, 1.0, 1.0, -0.1),
    5: (1.3, 1.3, 1.3, 1.3),
    6: (0.1, float("nan"), 0.1, 0.1),
    8: (1.9, 1.9, 1.9, 1.9),
    13: (1.2, 1.2, 1.2, 1.2),
  }

  def compare(variants, steps, args, teacher_steps, seeds):
    expected = (1,) if "dimo" in variants else (1, 2, 4, 8)
    assert (args.split, steps) == ("validation", expected)
    (seed,) = seeds
    assert seed not in range(args.seeds)  # no student of a table is what looked best by chance
    assert teacher_steps == (1,)  # nothing is chosen by the teacher
    ((method, (folder, _, flags)),) = variants.items()
    tried.append((folder, search.load([DIGITS, *flags]).distill))
    values = special.get(len(tried), (2.0, 2.0, 2.0, 2.0))[: len(steps)]
    rows = zip(steps, values, strict=True)
    cells = {("student", "frechet", step): (value, 0.2, step) for step, value in rows}
    return {method: [students.Measured(cells, "5eed")]}

  monkeypatch.setattr(students, "compare", compare)
  args = argparse.Namespace(
    teacher=["t"], extra=[], rates=(0.5, 1.0, 3.0), ranks=(0, 16), made_for=(1, 2, 4), minutes=1.0,
    chosen_for=None, out=tmp_path, seeds=3, split="held_out",
  )  # fmt: skip
  data = dataclasses.replace(
    methods.DATA["digits"], overrides=("--config.distill.student_nfe=8",)
  )  # what the config says is tried, too
  chosen = methods.ready("dmmd", data, args)
  assert [x.lora_rank for _, x in tried] == [0] * 3 + [16] * 10
  assert [x.student_nfe for _, x in tried] == [8] * 6 + [1, 2, 4, 8] + [2] * 3
  optimizers = ("student_optimizer", "auxiliary_optimizer")
  for name in optimizers:
    factors = [x[name].learning_rate / config.distill[name].learning_rate for _, x in tried]
    assert factors == pytest.approx([0.5, 1, 3] * 2 + [0.5] * 4 + [0.5, 1, 3])
  # The best of the steps is one of the last rates, too.
  assert len({folder for folder, _ in tried}) == 12
  # Half of the time, and all of it.
  assert [x.num_steps for _, x in tried] == [145] * 3 + [290] * 3 + [590] * 7
  assert search.load(chosen).distill.to_dict() == tried[-1][1].to_dict()
  tried.clear()
  assert methods.ready("dmmd", data, args) == chosen and not tried
  # Four times as long with what is best after a minute: nothing is chosen again.
  args.minutes, args.chosen_for = 4.0, 1.0
  longer = methods.ready("dmmd", data, args)
  assert longer[:-1] == chosen[:-1] and not tried
  assert longer[-1] == "--config.distill.num_steps=2390"
  redi = methods.ready("redi", data, args)
  assert [(x.lora_rank, x.num_steps) for _, x in tried] == [(0, 145)] * 3
  assert redi[-1] == "--config.distill.num_steps=1195"
  methods.ready("dimo", data, args)
  # What won with other rates of the config, where the first choice comes to the same, is another.
  lower = [
    f"--config.distill.{n}.learning_rate={config.distill[n].learning_rate / 6}" for n in optimizers
  ]
  data = dataclasses.replace(data, overrides=(*data.overrides, *lower))
  tried.clear(), special.clear()
  special[6] = (1.0, 1.0, 1.0, 1.0)
  methods.ready("dmmd", data, args)
  assert [x.num_steps for _, x in tried] == [145] * 3 + [290] * 3 + [590] * 3


def test_predictions_are_those_of_all_networks_for_every_example():
  """A teacher's prediction more for each, and its second sub-step; half the batch, half of them."""
  found = {
    method: search.predictions(
      [DIGITS, f"--config.distill.method={method}", "--config.distill.noise=none", *more]
    )
    for method, *more in (
      ("continued",),
      ("dcd",),
      ("sdtt", "--config.distill.batch_size=32", "--config.distill.sdtt.teacher_nfe=256"),
    )
  }
  # A prediction with its gradient, some of it computed again.
  assert 3.3 < found["continued"] / 64 < 4
  assert found["dcd"] - found["continued"] == pytest.approx(64, rel=0.01)
  assert 2 * found["sdtt"] - found["continued"] == pytest.approx(128, rel=0.02)


def test_one_batch_below_zero_can_be_chosen(monkeypatch):
  cells = {("student", "frechet", steps): (-0.1, 0.0, steps) for steps in search.CHOSEN_AT}
  found = students.Measured(cells, "5eed")
  monkeypatch.setattr(students, "compare", lambda *_: {"dmmd": [found]})
  monkeypatch.setattr(search, "folder", lambda *_: "dmmd")
  candidates = [([DIGITS], (1e9, 1.0)), ([DIGITS], (0.0, 0.1))]
  args = argparse.Namespace(teacher=["t"], minutes=1.0, seeds=3, split="held_out")
  assert search.choose("dmmd", "frechet", candidates, 30.0, args) == 1


@pytest.mark.parametrize("code", [3, 1, 2])
def test_what_diverges_is_not_chosen_and_what_fails_is_not_taken_for_it(code, monkeypatch):
  candidates = [([DIGITS], (0.0, 0.1))] * 3
  args = argparse.Namespace(teacher=["t"], minutes=1.0, seeds=3, split="held_out")

  def compare(*_):
    raise subprocess.CalledProcessError(code, "main")

  monkeypatch.setattr(students, "compare", compare)
  monkeypatch.setattr(search, "folder", lambda *_: "dmmd")
  expected = checks.ConfigError if code == 3 else subprocess.CalledProcessError
  with pytest.raises(expected):
    search.choose("dmmd", "frechet", candidates, 30.0, args)


def test_runs_of_other_configs_or_teachers_lie_elsewhere(monkeypatch):
  digests = {("t", "teacher"): "5eed", ("u", "teacher"): "6eed", ("t", "reference"): "7eed"}
  find = lambda path, model: records.Source(None, {"digest": digests[str(path), model]})
  monkeypatch.setattr(records, "find_model", find)
  args, other = argparse.Namespace(teacher=["t"]), argparse.Namespace(teacher=["u"])
  flags = [DIGITS], [DIGITS, "--config.distill.ema=0.5"]
  found = [search.folder("dmmd", f, a) for f in flags for a in (args, other)]
  assert len(set(found)) == 4 and found[0] == search.folder("dmmd", [DIGITS], args)
  text = ["--config=configs/text_dmmd.py", "--config.reference.workdir=TEACHER"]
  of_text = search.folder("dmmd", text, args)
  # Trained again, at the same place.
  for model in ("teacher", "reference"):
    with monkeypatch.context() as patch:
      patch.setitem(digests, ("t", model), "8eed")
      assert search.folder("dmmd", text, args) != of_text
  assert search.folder("dmmd", text, args) == of_text
  # The same flags, of a file that has changed since.
  changed = search.load(flags[1])
  monkeypatch.setattr(search, "load", lambda _: changed.copy_and_resolve_references())
  assert search.folder("dmmd", [DIGITS], args) == found[2]


def test_a_run_lies_elsewhere_where_a_default_of_its_method_changes(monkeypatch):
  """And only there: what other methods have is none of its own."""
  monkeypatch.setattr(records, "find_model", lambda *_: records.Source(None, {"digest": "5eed"}))
  args = argparse.Namespace(teacher=["t"])
  places = lambda: [
    search.folder(m, [DIGITS, f"--config.distill.method={m}"], args) for m in ("sdtt", "dmmd")
  ]
  before = places()
  settings = registry.settings(registry.find("sdtt"))["sdtt"]
  monkeypatch.setattr(settings.__init__, "__defaults__", (1, *settings.__init__.__defaults__[1:]))
  after = places()
  assert before[0] != after[0] and before[1] == after[1]


@pytest.mark.parametrize("code", [3, 1])
def test_a_method_that_diverges_at_last_is_left_out(code, tmp_path, monkeypatch, capsys):
  """One that fails in another way ends the comparison."""
  found = {
    (model, "frechet", n): (value, 0.1, n)
    for n in (1, 2)
    for model, value in (("student", 2.0), ("teacher", 3.0))
  }
  measured = []

  def compare(variants, steps, args, teacher_steps):
    measured.append((*variants, teacher_steps))
    if "sdtt" in variants:
      raise subprocess.CalledProcessError(code, "main")
    return {name: [students.Measured(found, "5eed")] * 3 for name in variants}

  chosen = search.at_rate([DIGITS, "--config.distill.num_steps=500"], 2.0)
  monkeypatch.setattr(methods, "ready", lambda *_: chosen)
  monkeypatch.setattr(methods, "settings", lambda *_: [DIGITS])
  monkeypatch.setattr(search, "folder", lambda *_: "x")
  monkeypatch.setattr(search, "predictions", lambda flags: 718)
  monkeypatch.setattr(students, "compare", compare)
  data = methods.Data("digits", ("frechet",))
  monkeypatch.setitem(methods.DATA, "digits", data)
  monkeypatch.setattr(
    sys,
    "argv",
    [
      "methods", "--data=digits", "--methods=sdtt,dmmd,redi", f"--out={tmp_path}", "--minutes=1",
      "--chosen_for=0.25", "--nfe=1,2",
    ],
  )  # fmt: skip
  if code != 3:
    with pytest.raises(subprocess.CalledProcessError):
      methods.main()
    return
  methods.main()
  printed = capsys.readouterr().out
  assert "| dmmd | 500 | 0.120 | 718 | 0 | 2.000 |" in printed
  assert "sdtt: diverges" in printed and "| dmmd | 2.0" in printed and "| redi | 2.0" in printed
  # The teacher is measured beside the first that has a student.
  assert measured == [("sdtt", (1, 2)), ("dmmd", (1, 2)), ("redi", (1,))]


@pytest.mark.parametrize(
  ("word", "message"),
  [
    ("distill.lora_rank=64", "give --ranks"),
    ("distill.student_optimizer.learning_rate=1.0", "give --ranks"),
    ("distill.student_nfe=8", "--made_for"),
    # The last flag wins: these would be the table of another split, seed or teacher.
    ("evaluate.split=train", "is set here"),
    ("run.seed=7", "is set here"),
    ("distill.teacher_workdir=other", "is set here"),
    ("distill.num_steps=3", "is set here"),
    ("distill.method=dmmd", "is set here"),
    ("process.name=uniform", "is set here"),
  ],
)
def test_what_the_comparison_sets_is_not_given(word, message, capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["methods", "--", f"--config.{word}"])
  with pytest.raises(SystemExit):
    methods.main()
  assert message in capsys.readouterr().err


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    ("--methods=dmmd,dmdd", "no method 'dmdd'; expected some of dmmd, "),
    ("--rates=a", "argument --rates: found 'a'; expected numbers"),
    ("--rates=0", "argument --rates: found '0'"),
    ("--ranks=0,-1", "argument --ranks: found '0,-1'"),
    ("--made_for=x", "argument --made_for: found 'x'"),
    ("--nfe=0", "argument --nfe: found '0'; expected numbers of at least 1"),
    ("--seeds=0", "argument --seeds: found '0'"),
    ("--seeds=1,2", "argument --seeds: found '1,2'; expected one number"),
  ],
)
def test_wrong_arguments_are_told_before_anything_is_run(flag, message, capsys, monkeypatch):
  monkeypatch.setattr(methods, "ready", lambda *_: pytest.fail("ran"))
  monkeypatch.setattr(sys, "argv", ["methods", flag])
  with pytest.raises(SystemExit) as ended:
    methods.main()
  assert ended.value.code == 2 and message in capsys.readouterr().err


def test_a_teacher_of_another_network_is_refused_before_anything_is_timed(monkeypatch):
  config = importlib.import_module("configs.digits_dmmd").get_config()
  config.network.width = 32
  teacher = records.Source("runs/narrow", {"config": config.to_dict(), "inputs": {}})
  monkeypatch.setattr(records, "find_model", lambda *_: teacher)
  args = argparse.Namespace(teacher=["runs/narrow"], extra=[])
  with pytest.raises(checks.ConfigError, match=r"the teacher in runs/narrow .*network.width: 32"):
    methods.settings("dmmd", methods.DATA["digits"], args)


@pytest.mark.parametrize("minutes", ["0", "-1", "nan"])
def test_no_time_to_choose_in_is_refused(minutes, capsys, monkeypatch):
  monkeypatch.setattr(sys, "argv", ["methods", f"--chosen_for={minutes}"])
  with pytest.raises(SystemExit):
    methods.main()
  assert f"--chosen_for is {minutes}; expected minutes" in capsys.readouterr().err
