"""Where the student stands beside the teacher."""

import pytest

from dmmd_jax.report.comparison import comparison_table, headline
from tests.report.example import RESULTS, row


def results(student, *teachers, metric="frechet", steps=(4,), own=8):
  """A student's value and error, and the teacher's at 2, 4, 8 ... NFE."""
  rows = [row("teacher", 2 ** (i + 1), metric, *cell) for i, cell in enumerate(teachers)]
  rows += [row("student", nfe, metric, *student) for nfe in steps]
  made = {"student": {"config": {"distill": {"student_nfe": own}}}}
  return RESULTS | {"rows": rows, "inputs": made}


@pytest.mark.parametrize(
  ("student", "said", "cell"),
  [
    ((5.0, 0.3), "as good as the teacher at 4", ["4", "5.50 ± 0.10"]),
    # Three standard errors of the difference above the one, and below the other.
    ((4.5, 0.3), "between the teacher at 4 and at 8", ["4 to 8", "5.50 ± 0.10 to 3.000"]),
    ((3.0, None), "as good as the teacher at 8", ["8", "3.000"]),
    ((2.0, None), "better than the teacher at all its NFE, the best of which is 8",
     ["better than 8", "3.000"]),
    ((9.0, 0.1), "worse than the teacher at 2", ["below 2", "8.00 ± 0.10"]),
  ],
)  # fmt: skip
def test_the_student_is_placed_among_the_teachers_nfe(student, said, cell):
  found = results(student, (8.0, 0.1), (5.5, 0.1), (3.0, None), (3.5, 0.1))
  assert headline(found).startswith(f"The student at 4 NFE is {said}. Fréchet distance")
  assert comparison_table(found).rows[0][2:] == cell


def test_the_headline_is_on_the_steps_of_distillation():
  found = results((5.0, 0.3), (5.0, 0.3), steps=(16, 1, 8))
  assert headline(found).startswith("The student at 8 NFE")
  assert [cells[0] for cells in comparison_table(found).rows] == ["1", "8", "16"]
  assert headline(results((5.0, 0.3), (5.0, 0.3), steps=(1, 2))).startswith("The student at 2 NFE")


def test_fid_decides_before_other_metrics_and_entropy_never():
  found = results((5.0, None), (4.0, None))
  fid = results((1.0, None), (4.0, None), metric="fid")
  assert "FID" in headline(found | {"rows": found["rows"] + fid["rows"]})
  assert headline(results((5.0, None), (4.0, None), metric="entropy")) == ""


def test_without_both_or_without_a_value_there_is_no_comparison():
  for missing in ("teacher", "student"):
    rows = [r for r in RESULTS["rows"] if r["model"] != missing]
    assert headline(RESULTS | {"rows": rows}) == ""
    assert comparison_table(RESULTS | {"rows": rows}) is None
  assert headline(results((float("nan"), None), (4.0, None))) == ""
