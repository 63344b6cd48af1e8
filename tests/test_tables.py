"""The documentation shows what result files hold."""

import json
import pathlib

import pytest

from benchmarks import tables

RESULTS = {
  "caption": "Three seeds.",
  "command": "python -m measure",
  "made_by": {"commit": 40 * "a" + "-dirty"},
  "reference": {"frechet": [4.5, None]},
  "reference_split": "validation",
  "rows": [
    {"model": "teacher", "metric": "frechet", "nfe": 16, "value": 25.0, "stderr": 1.0},
    {"model": "teacher", "metric": "frechet", "nfe": 4, "value": 86.1, "stderr": None},
    {"model": "student", "metric": "frechet", "nfe": 4, "value": 23.28, "stderr": 0.54},
    {"model": "student", "metric": "entropy", "nfe": 4, "value": 1.2, "stderr": None},
  ],
}


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
  monkeypatch.setattr(tables, "RESULTS", tmp_path)
  tables.save("digits", RESULTS)


def test_a_table_has_rows_as_asked_and_evaluations_in_order():
  lines = tables.render(tables.load("digits"), "frechet", rows="student|teacher").splitlines()
  assert lines == [
    "| Fréchet distance, NFE | 4 | 16 |",
    "|---|---|---|",
    "| student | 23.28 ± 0.54 |  |",
    "| teacher | 86.100 | 25.0 ± 1.0 |",
  ]


def test_at_a_number_of_evaluations_the_metrics_are_the_columns():
  lines = tables.render(RESULTS, nfe="4", rows="student").splitlines()
  assert lines[0] == "|  | Fréchet distance | entropy, nats |"
  assert lines[2] == "| student | 23.28 ± 0.54 | 1.200 |"


def test_a_document_is_filled_in_once():
  text = (
    "# Title\n\n<!-- table digits metric=frechet rows=student -->\nold\n<!-- end table -->\nrest\n"
  )
  filled = tables.fill(text)
  assert "| student | 23.28 ± 0.54 |" in filled and "old" not in filled and "teacher" not in filled
  assert filled.startswith("# Title\n\n<!-- table digits") and filled.endswith("-->\nrest\n")
  assert tables.fill(filled) == filled


def test_how_tables_were_measured_is_said_once_below_the_first_of_those_it_is_the_same_for():
  tables.save("other", RESULTS | {"caption": "Two seeds."})
  tables.save("derived", {"caption": "No seeds.", "rows": RESULTS["rows"]})
  three, two = (f"{n} seeds. `python -m measure`, commit aaaaaaa+." for n in ("Three", "Two"))
  real = "Three seeds. Real data (validation split): 4.500. `python -m measure`, commit aaaaaaa+."
  expected = (
    ("digits metric=frechet", real),
    ("digits nfe=4", three),
    ("digits metric=entropy", None),
    ("other nfe=4", two),
    ("digits nfe=4", three),
    ("# A section", None),
    ("digits nfe=16", three),
    ("derived nfe=4", "No seeds."),
  )
  blocks = [s if s[0] == "#" else f"<!-- table {s} -->\n<!-- end table -->" for s, _ in expected]
  filled = tables.fill("\n\n".join(blocks))
  found = [line for line in filled.splitlines() if "seeds" in line]
  assert found == [line for _, line in expected if line]
  assert tables.fill(filled) == filled


@pytest.mark.parametrize(
  ("spec", "message"),
  [
    ("digit metric=frechet", "no docs/results/digit.json; did you mean digits"),
    ("elsewhere metric=frechet", "no docs/results/elsewhere.json"),
    ("digits metric=frechet rows=studnt", "no row studnt"),
    ("digits metric=fid", "no such rows"),
  ],
)
def test_a_table_that_cannot_be_made_says_why(spec, message):
  with pytest.raises(tables.TableError, match=message):
    tables.fill(f"<!-- table {spec} -->\n<!-- end table -->")


def test_the_results_of_runs_are_kept_without_their_configs(tmp_path):
  (tmp_path / "evaluate").mkdir()
  rows = [row | {"num_samples": 1080} for row in RESULTS["rows"]]
  results = {"rows": rows, "split": "held_out", "reference": {}, "reference_split": "train"}
  results |= {"bits_per_token": {}, "made_by": {}, "config": {"network": {"width": 3}}}
  (tmp_path / "evaluate" / "results.json").write_text(json.dumps(results))
  kept = tables.of_runs([str(tmp_path)])
  assert kept["rows"] == rows and "config" not in kept
  assert kept["caption"].startswith("1,080 samples a cell, against the test split")
  two = tables.of_runs([f"a=b={tmp_path}", f"other={tmp_path}"])["rows"]
  assert [row["model"] for row in two] == ["a=b", "a=b", "other", "other"]


def test_every_table_of_the_documentation_is_what_its_results_say(monkeypatch):
  monkeypatch.undo()
  for path in tables.documents():
    text = path.read_text()
    assert tables.fill(text) == text, f"{path}: run make tables"


def test_results_that_are_added_say_which_command_made_them(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(tables, "RESULTS", tmp_path)
  monkeypatch.setattr(tables, "documents", list)
  (tmp_path / "found.json").write_text(json.dumps({"rows": []}))
  add = ["tables", "--add=new", "--from", f"{tmp_path}/found.json"]
  monkeypatch.setattr("sys.argv", add)
  with pytest.raises(SystemExit):
    tables.main()
  assert "give --command" in capsys.readouterr().err and not (tmp_path / "new.json").exists()
  monkeypatch.setattr("sys.argv", [*add, "--command=make demo"])
  tables.main()
  monkeypatch.setattr("sys.argv", add)  # as the file of before says
  tables.main()
  assert json.loads((tmp_path / "new.json").read_text())["command"] == "make demo"
  # Not over what another command made, unless that is meant.
  other = [*add, "--command=make other"]
  monkeypatch.setattr("sys.argv", other)
  with pytest.raises(
    SystemExit, match=r"new.json is of another command, `make demo`; give another"
  ):
    tables.main()
  assert json.loads((tmp_path / "new.json").read_text())["command"] == "make demo"
  monkeypatch.setattr("sys.argv", [*other, "--replace"])
  tables.main()
  assert json.loads((tmp_path / "new.json").read_text())["command"] == "make other"


def results_of(teacher, commit, split="held_out", **models):
  values = {"teacher": teacher} | models
  rows = [
    {"model": model, "metric": "frechet", "nfe": nfe, "value": value, "stderr": 0.1}
    | {"commit": commit}
    for model, cells in values.items()
    for nfe, value in zip((1, 2), cells, strict=False)
  ]
  command = f"python -m measure --minutes=1 --methods={','.join(models)}"
  made = {"made_by": {"commit": commit}, "command": command}
  return {"caption": "One seed.", "seeds": 1, "split": split, "rows": rows, **made}


def cells(results):
  rows: dict = {}
  for row in results["rows"]:
    rows.setdefault(row["model"], []).append(row["value"])
  return rows


def test_students_of_a_later_comparison_keep_their_teacher_command_and_commit():
  first = results_of((9.0, 8.0), "aaaaaaa", ours=(3.0, 2.0), other=(4.0, 3.0), third=(7.0, 6.0))
  # A tenth of an error is nothing but rounding.
  same = tables.replaced(first, results_of((9.009,), "bbbbbbb", ours=(2.0, 1.0)))
  expected = {"teacher": [9, 8], "ours": [2, 1], "other": [4, 3], "third": [7, 6]}
  command = "python -m measure --minutes=1 --methods="
  assert cells(same) == expected and same["commands"] == {"ours": f"{command}ours"}
  said = f"One seed. `{command}ours,other,third`, commit aaaaaaa."
  below = lambda results, rows: " ".join(tables.caption(results, rows=rows).split())
  assert below(same, "ours|other") == f"{said} ours: commit bbbbbbb."
  assert below(same, "other|third") == said
  tuned = results_of((7.0, 8.0), "bbbbbbb", ours=(2.0, 1.0))
  tuned["command"] += " -- --config.x=1"
  other = below(tables.replaced(first, tuned), "teacher|ours|third")
  otherwise = f"ours: commit bbbbbbb, of another teacher, `{command}ours -- --config.x=1`."
  assert other == f"{said} {otherwise}"
  # Nor is a teacher spoken of where none has cells.
  others = tables.replaced(first, tuned)
  others["rows"].append(
    {"model": "ours", "metric": "updates", "nfe": 0, "value": 9, "stderr": None}
  )
  assert "another teacher" not in tables.caption(others, nfe="0", rows="ours")
  assert "another teacher" in tables.caption(others, nfe="1", rows="ours")
  # Nothing is said of a teacher that is shown.
  shown = below(tables.replaced(first, tuned), "teacher|teacher of ours|ours")
  assert "another teacher" not in shown and "bbbbbbb" in shown

  again = tables.replaced(same, results_of((9.5, 8.0), "ddddddd", ours=(2.5, 1.5), new=(1.0, 1.0)))
  apart = tables.replaced(same, results_of((9.0, 8.011), "ddddddd", ours=(2.5, 1.5)))
  assert list(cells(apart))[:2] == ["teacher", "teacher of ours"]
  assert list(cells(again)) == ["teacher", "teacher of ours, new", "ours", "other", "third", "new"]
  assert cells(again)["teacher of ours, new"] == [9.5, 8.0] and cells(again)["ours"] == [2.5, 1.5]
  # More students of that one, and one that is no longer of it.
  more = tables.replaced(again, results_of((9.5, 8.0), "ddddddd", other=(0.5, 0.5)))
  assert list(cells(more))[:2] == ["teacher", "teacher of ours, new, other"]
  back = tables.replaced(more, results_of((9.0, 8.0), "eeeeeee", ours=(3.0, 2.0)))
  assert list(cells(back))[:2] == ["teacher", "teacher of new, other"]
  last = tables.replaced(back, results_of((9.0, 8.0), "eeeeeee", new=(3.0, 2.0), other=(1.0, 1.0)))
  assert list(cells(last)) == ["teacher", "ours", "other", "third", "new"]


def test_what_was_measured_otherwise_is_not_put_into_a_table():
  first = results_of((9.0, 8.0), "aaaaaaa", ours=(3.0, 2.0))
  with pytest.raises(tables.TableError, match="split: held_out in the file, validation in what"):
    tables.replaced(first, results_of((9.0, 8.0), "aaaaaaa", "validation", ours=(3.0, 2.0)))
  longer = results_of((9.0, 8.0), "aaaaaaa", ours=(3.0, 2.0))
  longer["command"] = longer["command"].replace("minutes=1", "minutes=4")
  with pytest.raises(tables.TableError, match="--minutes: 1 in the file, 4 in what"):
    tables.replaced(first, longer)
  no_command = {name: value for name, value in first.items() if name != "command"}
  with pytest.raises(tables.TableError, match="no teacher or no command"):
    tables.replaced(first, no_command)


def test_files_that_do_not_agree_are_not_added_to_each_other(tmp_path):
  paths = [str(tmp_path / name) for name in ("a.json", "b.json", "c.json", "d.json")]
  found = [
    results_of((9.0, 8.0), "aaaaaaa", ours=(3.0, 2.0)),
    results_of((9.0, 8.0), "bbbbbbb", other=(3.0, 2.0)),
    results_of((9.5, 8.0), "bbbbbbb", third=(3.0, 2.0)),
    results_of((9.0, 8.0), "bbbbbbb", "validation", third=(3.0, 2.0)),
  ]
  for path, results in zip(paths, found, strict=True):
    pathlib.Path(path).write_text(json.dumps(results))
  assert cells(tables.of_runs(paths[:2])) == {"teacher": [9, 8], "ours": [3, 2], "other": [3, 2]}
  with pytest.raises(tables.TableError, match="teacher frechet 1 is there twice"):
    tables.of_runs([paths[0], paths[2]])
  with pytest.raises(tables.TableError, match="one table: held_out, validation"):
    tables.of_runs([paths[0], paths[3]])


def test_results_that_are_not_there_are_one_line(monkeypatch):
  monkeypatch.setattr("sys.argv", ["tables", "--add=new", "--from", "runs/nowhere"])
  with pytest.raises(SystemExit, match="no runs/nowhere; expected a workdir"):
    tables.main()


def test_students_come_into_a_file_by_the_command(monkeypatch, tmp_path, capsys):
  monkeypatch.setattr(tables, "documents", list)
  tables.save("compared", results_of((9.0, 8.0), "aaaaaaa", ours=(3.0, 2.0)))
  source = tmp_path / "found.json"
  source.write_text(json.dumps(results_of((9.0, 8.0), "bbbbbbb", other=(1.0, 1.0))))
  monkeypatch.setattr("sys.argv", ["tables", "--into=compared", "--from", str(source)])
  tables.main()
  assert list(cells(tables.load("compared"))) == ["teacher", "ours", "other"]
  source.write_text(json.dumps(results_of((9.0, 8.0), "bbbbbbb", "train", other=(0.0, 0.0))))
  with pytest.raises(SystemExit, match="split: held_out in the file, train"):
    tables.main()
  assert cells(tables.load("compared"))["other"] == [1.0, 1.0]
