"""The command line, as its users meet it."""

import json
import os
import re
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from etils import epath

from dmmd_jax import experiment, main
from dmmd_jax.training_log import NonFiniteError


def run_main(*args, cwd=".", **environment):
  return subprocess.run(
    [sys.executable, "-m", "dmmd_jax.main", *map(str, args)],
    capture_output=True,
    text=True,
    cwd=cwd,
    env=os.environ | environment,
    timeout=300,
  )


@pytest.mark.parametrize(
  ("args", "message"),
  [
    ([], "no --config"),
    (["--config=configs/absent.py"], "no config file 'configs/absent.py'"),
    (["--config=configs/digits_dmmd.py", "--config.teacher.steps=3"], "teacher.num_steps"),
    (["--config=configs/digits_dmmd.py", "--config.teacher.num_steps=many"], "many"),
    (["--config=configs/digits_dmmd.py", "--config.distill.top_p=0.0"], "distill.top_p is 0.0"),
    (["--config=configs/digits_dmmd.py", "--config.distill.top_p"], "has no value"),
    (["--config=configs/digits_dmmd.py", "--flagfile=absent"], "absent"),
    (["--config=configs/digits_dmmd.py", "--workdr=a"], "--workdr; did you mean --workdir?"),
    (
      ["--config=digits_dmmd", "--workdir="],
      "--workdir is empty, as of a variable that is not set",
    ),
    (["--config=digits_dmmd", "--teacher.ema=0"], "; did you mean --config.teacher.ema?"),
    (["--config=digits_dmmd", "--conf.teacher.ema=0"], "; did you mean --config.teacher.ema?"),
    (["--config=configs/digits_dmmd.py", "stray"], "stray"),
    (
      ["--config=digits_dmmd", "--config.run.profile=(1,2)", "--workdir=gs://bucket/run"],
      "profile with a local --workdir",
    ),
    (["--config=configs/digits_dmmd.py", "--config.phases=('distill',)"], "no trained teacher"),
    (["--config=configs/digits_dmmd.py", "--config.teacher.batch_size=60"], "batch_size is 60"),
  ],
)
def test_errors_end_in_one_line_with_exit_code_2(args, message, tmp_path):
  workdir = tmp_path / "run"
  done = run_main(f"--workdir={workdir}", *args, JAX_PLATFORMS="cpu")
  assert done.returncode == 2, done.stderr
  assert message in done.stderr and done.stderr.count("\n") == 1, done.stderr
  assert not workdir.exists()


@pytest.mark.parametrize(
  ("args", "begin", "line"),
  [
    (["--config"], "Configs: ", "  label_dropout  "),
    (["--config", "--workdir=x"], "Configs: ", "  digits_dmmd  "),
    (["--config=coins_dmmd", "--config.run.seed=3", "--help"], "  phases = ", "  seed = 3  "),
    (["--help"], "Runs the phases of an experiment", "  --workdir: "),
  ],
)
def test_help_is_printed_and_nothing_is_run(args, begin, line):
  done = run_main(*args)
  assert done.returncode == 0 and not done.stderr, done.stderr
  assert done.stdout.startswith(begin)
  assert any(x.startswith(line) for x in done.stdout.splitlines()), done.stdout


@pytest.mark.parametrize("args", [["--help"], ["--config=configs/digits_dmmd.py", "--x=1"]])
def test_starts_fast(args):
  run_main(*args)  # warm the file cache: the figure is that of the imports
  start = time.perf_counter()
  run_main(*args)
  assert time.perf_counter() - start < 2.0


TINY = [
  "--config=configs/coins_dmmd.py",
  "--config.network.width=16",
  "--config.teacher.num_steps=20",
  "--config.teacher.batch_size=32",
  "--config.distill.num_steps=20",
  "--config.distill.method=kernel_score",  # compiles soonest
  "--config.distill.batch_size=32",
  "--config.evaluate.teacher_nfe=(1,2)",
  "--config.evaluate.student_nfe=(1,2)",
  "--config.evaluate.num_sample_batches=2",
  "--config.evaluate.sample_batch_size=256",
]


def test_all_phases_run_once_and_leave_results(programs, tmp_path):
  workdir = tmp_path / "run"
  run = lambda *args: programs.run("dmmd_jax.main", (*TINY, *args))
  done = run(f"--workdir={workdir}")
  assert done.code == 0, done.err
  results = json.loads((workdir / "evaluate" / "results.json").read_text())
  cells = {(r["model"], r["nfe"], r["metric"]) for r in results["rows"]}
  for model in ("teacher", "student"):
    assert {(model, 1, "impossible"), (model, 2, "entropy")} <= cells
  row = results["rows"][0]
  assert set(row) == {"model", "steps", "nfe", "metric", "value", "stderr", "num_samples"}
  timed = {(s["model"], s["nfe"]): s["seconds_per_sample"] for s in results["seconds"]}
  assert len(timed) == 4 and min(timed.values()) > 0
  printed = done.out.splitlines()
  assert printed[0] == f"1 cpu device, workdir {workdir}"
  for phase in ("teacher", "distill"):
    said = re.findall(f"^{phase}: (compiling|compiled|20/20)", done.err, re.M)
    assert said == ["compiling", "compiled", "20/20"], done.err
    assert any(line.startswith(f"{phase}: finished after ") for line in printed)
  # Nothing but what is ours: no library says a word.
  assert all(re.match("(teacher|distill|evaluate): ", x) for x in done.err.splitlines())
  assert any(line.startswith("  student ") for line in printed)
  has = f"Results:  {workdir}/evaluate/ has report.html, results.md, "
  assert any(line.startswith(has) for line in printed)
  for name in (
    "results.md", "quality_vs_nfe.png", "samples_teacher.png", "samples_student.png", "film.gif",
  ):  # fmt: skip
    assert (workdir / "evaluate" / name).stat().st_size > 0
  page = (workdir / "evaluate" / "report.html").read_text()
  assert "<title>run</title>" in page and 'class="film"' in page
  with np.load(workdir / "evaluate" / "samples_student_2.npz") as file:
    assert len(file["tokens"]) == row["num_samples"] and file["tokens"].dtype == np.uint8
    assert file["digest"] == results["inputs"]["student"]["digest"]
  real = np.load(workdir / "evaluate" / "samples_real.npz")["tokens"]
  assert (real[:, 0] == real[:, 1]).all()  # two coins that agree
  for phase in ("teacher", "distill"):
    assert any((workdir / phase / "tensorboard").iterdir())

  again = run(f"--workdir={workdir}")
  assert again.code == 0 and again.out.count("complete in") == 3

  changed = run("--config.network.width=32", f"--workdir={workdir}")
  assert changed.code == 2 and "network.width: 16 -> 32" in changed.err

  teacher = f"--config.distill.teacher_workdir={workdir}"
  other = run(
    "--config.phases=('distill',)", "--config.run.tensorboard=False", teacher,
    f"--workdir={tmp_path / 'other'}",
  )  # fmt: skip
  assert other.code == 0, other.err
  assert (tmp_path / "other" / "distill" / "checkpoints" / "20").is_dir()


def test_the_smoke_preset_of_cifar_goes_through_every_part(programs, tmp_path):
  """With a worker process, the U-ViT, made images and all phases; shortened once more."""
  args = (
    "--config=configs/cifar_dmmd.py",
    "--config.preset=smoke",
    "--config.run.tensorboard=False",
    "--config.teacher.num_steps=2",
    "--config.distill.num_steps=1",
    "--config.distill.updates=joint",
    "--config.evaluate.teacher_nfe=(2,)",
    "--config.evaluate.student_nfe=(1,)",
    "--config.evaluate.sample_batch_size=16",
    "--config.dataset.shape=(8,8,3)",
    "--config.evaluate.inception=absent.pth",
    f"--workdir={tmp_path}",
  )
  done = programs.run("dmmd_jax.main", args)
  assert done.code == 0, done.err
  assert "no FID, for there is no absent.pth" in done.out
  rows = json.loads((tmp_path / "evaluate" / "results.json").read_text())["rows"]
  assert {("teacher", 2), ("student", 1)} == {(r["model"], r["nfe"]) for r in rows}
  assert {"frechet", "kernel_mmd", "class_tv"} <= {r["metric"] for r in rows}
  assert (tmp_path / "evaluate" / "samples_student.png").stat().st_size > 0


def test_a_run_that_diverges_has_an_exit_code_of_its_own(tmp_path, monkeypatch, capsys):
  """Which a failure of another kind, whose traceback is printed, has not."""
  failure = NonFiniteError("loss is nan at step 4")

  def fail(*_):
    raise failure

  monkeypatch.setattr(experiment, "run", fail)
  monkeypatch.setattr(main, "_UNFINISHED", types.SimpleNamespace(value=False))  # no flags here
  with pytest.raises(SystemExit) as ended:
    main._run(None, epath.Path(tmp_path))
  assert ended.value.code == 3 and capsys.readouterr().err == "dmmd_jax: loss is nan at step 4\n"
  failure = KeyError("num_timesteps")
  with pytest.raises(KeyError):
    main._run(None, epath.Path(tmp_path))


def test_missing_images_are_one_line_with_the_command_that_prepares_them(tmp_path):
  done = run_main(
    "--config=configs/cifar_dmmd.py", f"--config.dataset.path={tmp_path}", f"--workdir={tmp_path}/w"
  )
  assert done.returncode == 2 and "tfds.builder('cifar10'" in done.stderr, done.stderr
  assert not (tmp_path / "w").exists()
