"""`python -m dmmd_jax runs`: what is in a folder, as its records have it, in whatever state."""

import json

import pytest

from dmmd_jax import records, runs
from tests.test_records import digits, leave, text


def row(model, nfe, value, metric="frechet"):
  return {
    "model": model, "steps": nfe, "nfe": nfe, "metric": metric, "value": value, "stderr": 0.1,
    "num_samples": 8,
  }  # fmt: skip


ROWS = [
  row("teacher", 1, 320.0),
  row("teacher", 1, 0.5, "class_tv"),
  row("teacher", 64, 19.48),
  row("student", 1, 47.7),
  row("student", 16, 18.16),
  row("autoregressive", 64, 1.0),
]


def evaluate(config, workdir, rows=ROWS, sources=None, **changes):
  """What an evaluation of `sources` leaves; `changes` to its results."""
  folder = workdir / "evaluate"
  sources = sources or records.find_sources(config, workdir, "evaluate")
  now = records.depends(config, "evaluate", sources)
  records.begin(folder, now)
  results = {
    "split": "held_out", "rows": rows, "reference": {"frechet": [4.3, None]},
    "reference_split": "validation", "bits_per_token": {}, "seconds": [], **now, **changes,
  }  # fmt: skip
  (folder / "results.json").write_text(json.dumps(results))
  records.finish(folder, now, {"sha256": records.sha256(folder / "results.json")}, "cpu")
  return workdir


@pytest.fixture
def workdir(tmp_path):
  """A run of which all phases are complete."""
  for phase in ("teacher", "distill"):
    leave(digits(), tmp_path / "run", phase)
  return evaluate(digits(), tmp_path / "run")


def states(workdir):
  return {name: phase.state for name, phase in runs.read(workdir).items()}


def test_a_complete_run_has_its_steps_and_its_lowest_values_of_the_first_metric(workdir):
  assert runs.summary("a", runs.read(workdir)) == {
    "run": "a", "data": "digits", "process": "masked", "method": "dmmd",
    "phases": {
      "teacher": {"state": "complete", "step": 2400, "num_steps": 2400},
      "distill": {"state": "complete", "step": 600, "num_steps": 600},
      "evaluate": {"state": "complete", "step": 0, "num_steps": None},
    },
    "metric": "frechet",
    "best": {
      "teacher": {"value": 19.48, "nfe": 64},
      "student": {"value": 18.16, "nfe": 16},
      "autoregressive": {"value": 1.0, "nfe": 64},
    },
  }  # fmt: skip


def test_equal_values_are_those_of_the_fewest_evaluations():
  rows = [row("student", nfe, 0.0) for nfe in (1, 2)]
  assert runs.best({"rows": rows})["best"]["student"]["nfe"] == 1


def test_a_phase_is_unfinished_until_its_record_says_so(tmp_path):
  folder = leave(digits(), tmp_path, "teacher", finished=False)
  assert runs.read_phase(folder)[:3] == ("unfinished", 2400, 2400)
  (folder / "checkpoints" / "2400").rename(folder / "checkpoints" / "500")
  assert runs.read_phase(folder)[:3] == ("unfinished", 500, 2400)


def edit(name, old, new):
  def change(workdir):
    path = workdir / name
    path.write_text(path.read_text().replace(old, new))

  return change


def make_folder(name):
  def change(workdir):
    (workdir / name).unlink()
    (workdir / name).mkdir()

  return change


def lose_checkpoint(workdir):
  (workdir / "teacher" / "checkpoints" / "2400").rename(workdir / "teacher" / "elsewhere")


@pytest.mark.parametrize(
  ("phase", "damage"),
  [
    ("teacher", edit("teacher/record.json", '"width": 128', '"width": 64')),
    ("teacher", edit("teacher/record.json", "{", "")),
    ("teacher", edit("teacher/config.json", '"width": 128', '"width": 64')),
    ("teacher", edit("teacher/config.json", "{", 9_000 * "[")),
    ("teacher", make_folder("teacher/config.json")),
    ("teacher", make_folder("teacher/record.json")),
    ("teacher", lose_checkpoint),
    ("evaluate", edit("evaluate/results.json", "18.16", "1.16")),
    ("evaluate", edit("evaluate/results.json", "}", "")),
    ("evaluate", make_folder("evaluate/results.json")),
    ("evaluate", lambda workdir: (workdir / "evaluate" / "results.json").unlink()),
  ],
)
def test_a_phase_that_is_not_what_its_record_says_is_damaged(workdir, capsys, phase, damage):
  damage(workdir)
  found = states(workdir)
  assert found.pop(phase) == "damaged" and found["distill"] == "complete"
  runs.main([str(workdir)])
  assert "damaged" in capsys.readouterr().out
  if phase == "evaluate":
    assert runs.summary("a", runs.read(workdir))["best"] == {}


def test_storage_that_cannot_be_read_is_damage(workdir, monkeypatch):
  def fail(*_):
    raise PermissionError(13, "Permission denied")

  monkeypatch.setattr(records, "read_begun", fail)
  assert set(states(workdir).values()) == {"damaged"}


def retrain(phase):
  def change(workdir):
    folder = workdir / phase
    record = json.loads((folder / "record.json").read_text())
    records.finish(folder, record["depends"], record["result"] | {"digest": "e"}, "cpu")

  return change


@pytest.mark.parametrize(
  "change",
  [
    retrain("teacher"),
    retrain("distill"),
    lambda workdir: (workdir / "teacher" / "record.json").unlink(),
  ],
)
def test_an_evaluation_of_other_models_than_are_there_is_out_of_date(workdir, change):
  assert states(workdir)["evaluate"] == "complete"
  change(workdir)
  assert states(workdir)["evaluate"] == "out of date"
  assert runs.summary("a", runs.read(workdir))["best"]["student"]["value"] == 18.16


def test_an_evaluation_without_the_student_that_came_later_is_out_of_date(tmp_path):
  leave(digits(), tmp_path, "teacher")
  evaluate(digits(), tmp_path)
  folder = leave(digits(), tmp_path, "distill", finished=False)
  assert states(tmp_path)["evaluate"] == "out of date"
  (folder / "checkpoints" / "600").rename(tmp_path / "elsewhere")
  assert states(tmp_path)["evaluate"] == "complete"  # there is no student yet


def test_models_from_elsewhere_keep_an_evaluation_up_to_date(tmp_path):
  leave(text(), tmp_path / "other", "teacher")
  leave(text(), tmp_path / "other", "reference")
  other = str(tmp_path / "other")
  config = text(distill__teacher_workdir=other, reference__workdir=other)
  leave(config, tmp_path / "run", "distill")
  evaluate(config, tmp_path / "run")
  assert states(tmp_path / "run") == {"distill": "complete", "evaluate": "complete"}


def test_runs_are_found_below_a_folder_and_nothing_else(tmp_path):
  for name in ("a", "b/c/0", "teacher", "1/2/3/4", "1/2/3/4/5", ".hidden"):
    leave(digits(), tmp_path / name, "teacher")
  for name in ("foreign/teacher", "empty", "a/other"):
    (tmp_path / name).mkdir(parents=True)
  (tmp_path / "foreign" / "evaluate").write_text("a file")
  found = [runs.name_of(path, tmp_path) for path in runs.find(tmp_path)]
  assert found == ["1/2/3/4", "a", "b/c/0", "teacher"]


@pytest.mark.parametrize("name", [".", "..", "{}"])
def test_a_run_by_itself_has_the_name_of_its_folder(workdir, capsys, monkeypatch, name):
  monkeypatch.chdir(workdir / "teacher" if name == ".." else workdir)
  runs.main([name.format(workdir), "--json"])
  assert [run["run"] for run in json.loads(capsys.readouterr().out)] == ["run"]


def test_a_table_that_is_too_wide_goes_on_below_each_run(workdir):
  summaries = [runs.summary(name, runs.read(workdir)) for name in ("few_steps/a", "b")]
  lowest = "frechet: teacher 19.5 @ 64, student 18.2 @ 16 NFE"
  wide = runs.table(summaries, 200)
  head = ["run", "data", "process", "method", "teacher", "distill", "evaluate", "lowest"]
  assert wide[0].split() == head and len(wide) == 3
  cells = "few_steps/a  digits  masked   dmmd    2400 complete  600 complete  complete  "
  assert wide[1] == cells + lowest
  middle = runs.table(summaries, 90)
  assert middle[0].split() == head[:-1] and middle[1:3] == [cells.rstrip(), f"  {lowest}"]
  narrow = runs.table(summaries, 60)
  assert max(map(len, narrow)) <= 60
  assert narrow[0].split() == ["run", "teacher", "distill", "evaluate"]
  assert narrow[2:4] == [
    "  digits, masked, dmmd, frechet: teacher 19.5 @ 64, student",
    "  18.2 @ 16 NFE",
  ]
  assert runs.table(summaries, 46)[:5] == [
    "run",
    "few_steps/a",
    "  digits, masked, dmmd",
    "  teacher 2400 complete, distill 600 complete,",
    "  evaluate complete",
  ]


def test_a_table_says_how_far_phases_are_that_are_not_complete(tmp_path):
  leave(digits(), tmp_path, "teacher", finished=False)
  (line,) = runs.table([runs.summary("a", runs.read(tmp_path))], 80)[1:]
  assert line.split() == ["a", "digits", "masked", "-", "2400/2400", "unfinished"]


def test_folders_without_runs_are_one_line(tmp_path, capsys):
  runs.main([str(tmp_path)])
  assert capsys.readouterr().out.startswith(f"no runs in {tmp_path}; ")
  runs.main([str(tmp_path), "--json"])
  assert capsys.readouterr().out == "[]\n"
  for name, message in (("nowhere", "does not exist"), ("file", "is a file")):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stopped:
      runs.main([str(tmp_path / name)])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1
