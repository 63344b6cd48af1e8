"""`python -m dmmd_jax compare`: results side by side, and what makes them not comparable."""

import json

import pytest

from configs import toy_dmmd
from dmmd_jax import compare, records
from tests.test_records import digits, leave, make, text
from tests.test_runs import evaluate, row

TEACHER = [row("teacher", 1, 300.0), row("teacher", 4, 80.0), row("teacher", 1, 0.5, "class_tv")]


def student(value):
  return [row("student", nfe, value / nfe) for nfe in (1, 4)] + [
    row("student", 1, value / 100, "class_tv")
  ]


def run(workdir, rows, config=None, unfinished=(), data="d", **changes):
  """A run that was evaluated, with `rows` of results."""
  config = config or digits()
  phases = ("teacher", "reference", "distill") if "reference" in config else ("teacher", "distill")
  for phase in phases:
    leave(config, workdir, phase, finished=phase not in unfinished)
  sources = records.find_sources(config, workdir, "evaluate", unfinished=True)
  sources["data"] = records.Source(None, {"fingerprint": data})
  return evaluate(config, workdir, rows, sources, **changes)


@pytest.fixture
def two(tmp_path):
  """Two runs with one teacher."""
  return [
    run(tmp_path / name, TEACHER + student(value)) for name, value in (("a", 48.0), ("b", 40.0))
  ]


def compared(capsys, *args):
  compare.main(list(map(str, args)))
  return capsys.readouterr().out.splitlines()


def refused(capsys, *args):
  with pytest.raises(SystemExit) as stopped:
    compare.main(list(map(str, args)))
  printed = capsys.readouterr()
  assert stopped.value.code == 2 and not printed.out and printed.err.count("\n") == 1, printed.err
  return printed.err


def notes(capsys, *workdirs):
  compare.main([*map(str, workdirs), "--json"])
  return json.loads(capsys.readouterr().out)["notes"]


def test_runs_are_side_by_side_and_one_teacher_is_there_once(two, capsys):
  lines = compared(capsys, *two)
  assert lines == [
    "### Fréchet distance to held-out data (classifier features; lower is better)",
    "",
    r"| model \ NFE | 1             | 4            |",
    "| ----------- | ------------- | ------------ |",
    "| teacher     | 300.00 ± 0.10 | 80.00 ± 0.10 |",
    "| a student   | 48.00 ± 0.10  | 12.00 ± 0.10 |",
    "| b student   | 40.00 ± 0.10  | 10.00 ± 0.10 |",
    "",
    "Real data (validation split) in place of samples: 4.300.",
    "",
    "### Class coverage: total variation of the class histogram from held-out data",
    "",
    r"| model \ NFE | 1           | 4 |",
    "| ----------- | ----------- | - |",
    "| teacher     | 0.50 ± 0.10 |   |",
    "| a student   | 0.48 ± 0.10 |   |",
    "| b student   | 0.40 ± 0.10 |   |",
    "",
  ]


def test_one_metric_alone(two, capsys):
  lines = compared(capsys, *two, "--metric=class_tv")
  assert lines[0].startswith("### Class coverage") and len(lines) == 8
  error = refused(capsys, *two, "--metric=class_vt")
  assert "no metric 'class_vt'; the runs share frechet, class_tv; did you mean class_tv?" in error


def test_metrics_that_only_some_runs_have_are_left_out(two, tmp_path, capsys):
  other = run(tmp_path / "c", student(30.0)[:2])
  assert [x for x in compared(capsys, *two, other) if x.startswith("#")] == [
    "### Fréchet distance to held-out data (classifier features; lower is better)"
  ]
  nothing = run(tmp_path / "e", [row("student", 1, 1.0, "fid")])
  assert "the runs share no metric" in refused(capsys, two[0], nothing)


def models(capsys, *workdirs):
  compare.main([*map(str, workdirs), "--json"])
  found = json.loads(capsys.readouterr().out)["models"]
  return [(model["model"], model["runs"]) for model in found]


def test_teachers_are_one_only_if_model_and_values_are_equal(two, tmp_path, capsys):
  one = [("teacher", ["a", "b"]), ("student", ["a"]), ("student", ["b"])]
  assert models(capsys, *two) == one
  rows = [r | {"value": r["value"] + 1e-9} for r in TEACHER]
  drawn_anew = run(tmp_path / "c", rows + student(30.0))
  assert models(capsys, *two, drawn_anew)[:2] == [("teacher", ["a", "b"]), ("teacher", ["c"])]
  inputs = json.loads((two[0] / "evaluate" / "results.json").read_text())["inputs"]
  inputs["teacher"]["digest"] = "e"
  trained_anew = run(tmp_path / "f", TEACHER + student(30.0), inputs=inputs)
  assert models(capsys, *two, trained_anew)[:2] == [("teacher", ["a", "b"]), ("teacher", ["f"])]


def test_one_teacher_has_all_the_cells_that_any_run_has(two, tmp_path, capsys):
  more = run(tmp_path / "c", [TEACHER[0], row("teacher", 2, 150.0)])
  lines = compared(capsys, *two, more)
  assert "| teacher     | 300.00 ± 0.10 | 150.00 ± 0.10 | 80.00 ± 0.10 |" in lines
  found = [compare.load(str(workdir), workdir.name) for workdir in (*two, more)]
  rows = compare.labelled(compare.merged(found, ["frechet"]), 3)
  assert [r["nfe"] for r in rows if r["model"] == "teacher"] == [1, 2, 4]  # as curves are drawn
  apart = run(tmp_path / "e", [row("teacher", 2, 150.0)])  # nothing says that they agree
  assert models(capsys, two[0], apart)[:2] == [("teacher", ["a"]), ("teacher", ["e"])]


def test_the_exact_teacher_is_one_without_a_digest(tmp_path, capsys):
  rows = [row("teacher", 1, 2.8, "nll"), row("student", 1, 0.5, "nll")]
  config = make(toy_dmmd)
  two = [run(tmp_path / name, rows, config) for name in ("a", "b")]
  assert models(capsys, *two)[0] == ("teacher", ["a", "b"])


def test_models_of_some_runs_say_of_which():
  shared = [compare.Model("teacher", list("abcd")[:n], "d", {}) for n in (1, 2, 3, 4)]
  labels = [compare._label(model, 4) for model in shared]
  assert labels == ["a teacher", "a, b teacher", "a and 2 more teacher", "teacher"]


def test_runs_have_short_names_that_tell_them_apart():
  assert compare.names(["runs/a", "runs/b/"]) == ["a", "b"]
  assert compare.names(["runs/x/0", "y/0", "/z"]) == ["x/0", "y/0", "z"]
  assert compare.names(["runs/x/0", "runs/z"]) == ["x/0", "z"]
  assert compare.names(["gs://one/a", "two/a"]) == ["one/a", "two/a"]
  with pytest.raises(ValueError, match="named twice"):
    compare.names(["a", "b/../a"])


@pytest.mark.parametrize(
  ("changes", "note"),
  [
    ({"evaluate__split": "validation"}, "evaluate.split is held_out in a, b; validation in c"),
    ({"evaluate__sample_batch_size": 7}, "evaluate.sample_batch_size is 0 in a, b; 7 in c"),
  ],
)
def test_settings_of_the_measurement_that_differ_are_said(two, tmp_path, capsys, changes, note):
  other = run(tmp_path / "c", TEACHER + student(30.0), digits(**changes))
  assert notes(capsys, *two, other) == [f"not comparable: {note}"]


def test_other_data_and_numbers_of_samples_are_said(two, tmp_path, capsys):
  assert notes(capsys, *two) == []
  rows = [r | {"num_samples": 16} for r in TEACHER]
  other = run(tmp_path / "c", rows, data="e")
  assert notes(capsys, *two, other) == [
    "not comparable: samples per cell is 8 in a, b; 16 in c",
    "not comparable: data.fingerprint is d in a, b; e in c",
  ]


def test_what_is_no_difference_is_not_said(two, tmp_path, capsys):
  config = digits(
    evaluate__teacher_nfe=(1,),
    evaluate__num_sample_batches=9,
    evaluate__brief=True,
    network__dtype="bfloat16",
  )
  assert notes(capsys, two[0], run(tmp_path / "c", TEACHER, config)) == []


def test_teachers_that_are_sampled_differently_are_said(two, tmp_path, capsys):
  rows = [r | {"value": 2.0} for r in TEACHER]
  other = run(tmp_path / "c", rows, digits(evaluate__teacher_top_p=0.5))
  (note,) = notes(capsys, two[0], other)
  assert note == "models sampled differently: evaluate.teacher_top_p is 1.0 in a; 0.5 in c"


def test_samplers_that_differ_are_said_and_runs_of_before_there_was_a_choice_are_ancestral(
  two, tmp_path, capsys
):
  old = digits()
  for field in ("sampler", "student_sampler", "grid", "times", "last_step"):
    del old.evaluate[field]
  assert notes(capsys, two[0], run(tmp_path / "old", TEACHER, old)) == []
  rows = [r | {"value": 2.0} for r in TEACHER]
  other = run(tmp_path / "c", rows, digits(evaluate__sampler="remdm"))
  (note,) = notes(capsys, two[0], other)
  assert note == "models sampled differently: evaluate.sampler is ancestral in a; remdm in c"


def test_texts_under_other_reference_models_are_not_comparable(tmp_path, capsys):
  rows = [row("student", 1, 2.0, "perplexity"), row("autoregressive", 64, 1.0, "perplexity")]
  one, other = (run(tmp_path / name, rows, text()) for name in "ab")
  assert notes(capsys, one, other) == []
  assert ("autoregressive", ["a", "b"]) in models(capsys, one, other)
  inputs = json.loads((one / "evaluate" / "results.json").read_text())["inputs"]
  inputs["reference"]["digest"] = "e"
  third = run(tmp_path / "c", rows, text(), inputs=inputs)
  assert notes(capsys, one, third) == ["not comparable: reference.digest is d in a; e in c"]
  inputs["reference"] = {"sha256": {"config.json": 64 * "1", "model.safetensors": 64 * "2"}}
  gpt2 = run(tmp_path / "g", rows, text(), inputs=inputs)
  assert notes(capsys, one, gpt2) == [
    "not comparable: reference.digest is d in a; none in g",
    "not comparable: reference.sha256 is none in a; 11111111 22222222 in g",
  ]


def test_models_that_were_not_finished_or_are_no_more_are_said(two, tmp_path, capsys):
  early = run(tmp_path / "c", TEACHER + student(30.0), unfinished=("distill",))
  assert notes(capsys, two[0], early) == ["the student of c is not finished: measured at step 600"]
  record = json.loads((two[0] / "distill" / "record.json").read_text())
  result = record["result"] | {"digest": "e"}
  records.finish(two[0] / "distill", record["depends"], result, "cpu")
  (note,) = notes(capsys, *two)
  assert note == "a has other models now than those that were measured; evaluate it again"


def test_runs_on_different_data_are_refused(two, tmp_path, capsys):
  texts = run(tmp_path / "t", [row("student", 1, 2.0)], text())
  error = refused(capsys, *two, texts)
  assert "dataset.name is digits in a and english in t; expected runs on the same data" in error
  printable = run(tmp_path / "p", [row("student", 1, 2.0)], text(dataset__alphabet="printable"))
  assert "dataset.alphabet is text8 in t and printable in p" in refused(capsys, texts, printable)


def test_runs_without_results_are_refused(two, tmp_path, capsys):
  leave(digits(), tmp_path / "c", "teacher")
  assert "has no results; run its phase evaluate" in refused(capsys, two[0], tmp_path / "c")
  assert "nowhere does not exist" in refused(capsys, two[0], tmp_path / "nowhere")
  (two[1] / "evaluate" / "record.json").unlink()
  assert "b is unfinished; run its phase evaluate again" in refused(capsys, *two)
  (two[0] / "evaluate" / "results.json").write_text("{}")
  assert "a is damaged; run its phase evaluate again" in refused(capsys, *two)


def test_a_table_that_is_too_wide_goes_on_below(two):
  cells = [["model", *"1234"], ["teacher", *4 * ["12345678"]], ["student", "1", "2", "", ""]]
  wide, narrow, narrowest = ([*compare._parts(cells, width)] for width in (55, 54, 5))
  assert wide == [cells]
  assert [[len(line) for line in part] for part in narrow] == [[4, 4, 4], [2, 2]]
  assert narrow[1] == [["model", "4"], ["teacher", "12345678"]]
  assert [part[0][1] for part in narrowest] == ["1", "2", "3", "4"]
  assert max(map(len, compare._aligned(cells))) == 55


def test_curves_are_drawn_where_asked_for(two, tmp_path, capsys):
  lines = compared(capsys, *two, f"--out={tmp_path}/x.png")
  assert lines[-1] == f"wrote {tmp_path}/x.png"
  assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
  assert "curves go to a file that ends in .png" in refused(capsys, *two, "--out=x.pdf")


def test_curves_have_the_line_of_real_data_where_it_is_one(two, tmp_path, monkeypatch):
  drawn = []
  monkeypatch.setattr(compare.figures, "save_quality", lambda _, results: drawn.append(results))
  other = run(tmp_path / "c", TEACHER, reference={"frechet": [5.0, None]})
  for workdirs in (two, [*two, other]):
    compare.main([*map(str, workdirs), "--out=x.png", "--metric=frechet"])
  assert [results["reference"] for results in drawn] == [{"frechet": [4.3, None]}, {}]
  assert {row["model"] for row in drawn[0]["rows"]} == {"teacher", "a student", "b student"}
