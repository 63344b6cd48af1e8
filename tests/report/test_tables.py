"""Tables say what was measured, on what, and at which price."""

import pytest

from dmmd_jax.report import results_table, tables
from tests.report.example import RESULTS


def test_a_table_has_models_in_rows_and_evaluations_in_columns():
  lines = results_table(RESULTS).splitlines()
  assert lines[:6] == [
    "### Fréchet distance to held-out data (classifier features; lower is better)",
    "",
    "| model \\ NFE | 1 | 2 | 8 |",
    "|---|---|---|---|",
    "| teacher |  | 12.346 ± 0.012 | 1.00 ± 0.25 |",
    "| student | 3.500 |  |  |",
  ]
  assert lines[7] == "Real data (validation split) in place of samples: 0.500."
  entropy = lines.index("### Mean entropy of the predictions (nats per position)")
  assert lines[entropy + 5] == "| student | 0.250 ± 0.050 |  |  |"
  times = lines.index("### Milliseconds per sample")
  assert lines[times + 4 : times + 6] == [
    "| teacher |  | 1.00 | 4.00 |", "| student | 12.30 |  |  |",
  ]  # fmt: skip
  assert lines[-2] == (
    "1080 samples per cell, measured against the held-out split; ± is one standard error over"
    " batches."
  )
  for spent in (
    "two if guided by labels",
    "one that writes it to the cache",
    "one after the other",
  ):
    assert spent in lines[-1]


def test_a_table_says_that_it_is_to_choose_settings_by():
  chosen = RESULTS | {"split": "validation", "reference_split": "train"}
  table = results_table(chosen)
  assert "measured against the validation split" in table and "held-out split" not in table
  assert "Real data (training split) in place of samples" in table


def test_it_is_said_how_models_have_sampled():
  evaluate = {
    "sampler": "remdm", "student_sampler": "ancestral", "grid": "cosine", "last_step": "drawn",
    "ancestral": {"skip": False}, "remdm": {"variant": "cap", "eta": 0.1},
  }  # fmt: skip
  (line,) = tables.sampling(evaluate)
  assert line == (
    "Samplers: remdm of the teacher, ancestral of the student, unless its method has a way of its"
    " own (variant=cap, eta=0.1, skip=False); on the grid cosine, the last step drawn."
  )
  assert line in tables.remarks(RESULTS | {"config": {"evaluate": evaluate}})
  assert tables.sampling({"split": "held_out"}) == []


@pytest.mark.parametrize(
  ("value", "stderr", "expected"),
  [
    (1.23456, None, "1.235"),
    (1.23456, 0.0, "1.235"),
    (1.23456, float("nan"), "1.235"),
    (-1.26e-5, None, "-0.000013"),
    (0.000177, None, "0.00018"),
    (0.0177, None, "0.018"),
    (0.005, None, "0.005"),
    (0.010000000000000009, None, "0.010"),
    (0.0, None, "0.000"),
    (float("nan"), None, "nan"),
    (1.23456, 0.1, "1.23 ± 0.10"),
    (1.23456, 0.0123, "1.235 ± 0.012"),
    (1.23456, 0.00999, "1.2346 ± 0.0100"),
    (123.456, 25.0, "123.5 ± 25.0"),
    (1e-9, 1e-12, "0.0000000 ± 0.0000000"),
  ],
)
def test_numbers_have_two_digits_of_their_error(value, stderr, expected):
  assert tables.number(value, stderr) == expected


def test_what_all_should_know_of_the_models():
  assert tables.notes(RESULTS) == [
    "Teacher (upper bound): 2.346 ± 0.013 bits per token of the held-out split, perplexity 5.083 ±"
    " 0.046.",
    "The student is not finished: measured at step 7.",
  ]


def test_markdown_and_html_are_made_from_the_same_tables():
  found = tables.tables(RESULTS)
  assert [table.title.split(" (")[0] for table in found] == [
    "Fréchet distance to held-out data", "Mean entropy of the predictions",
    "Milliseconds per sample",
  ]  # fmt: skip
  assert found[0].header == ["model \\ NFE", "1", "2", "8"]
  assert found[0].rows[0] == ["teacher", "", "12.346 ± 0.012", "1.00 ± 0.25"]
  assert found[0].note.endswith("0.500.") and not found[1].note
