"""The overview of the comparisons is what their results say."""

import math

import pytest

from benchmarks import overview, tables


def rows(**models):
  return [
    {"model": model, "metric": "frechet", "nfe": nfe, "value": value, "stderr": stderr}
    for model, cells in models.items()
    for nfe, (value, stderr) in cells.items()
  ]


def test_a_ratio_is_the_geometric_mean_over_one_two_and_four_steps():
  exact = rows(
    student={1: (10.0, 0.0), 2: (40.0, 0.0), 4: (80.0, 0.0), 8: (500.0, 0.0)},
    teacher={1: (80.0, 0.0), 2: (40.0, 0.0), 4: (10.0, 0.0), 8: (5.0, 0.0)},
    generator={1: (20.0, 0.0)},
  )
  other = [row | {"metric": "class_tv", "value": 3.0} for row in exact]
  found = overview.ratios(exact + other, "frechet")
  assert found == {"student": (pytest.approx(1.0), 0.0), "generator": (pytest.approx(0.25), 0.0)}


def test_a_student_of_another_teacher_is_beside_that_one():
  found = overview.ratios(
    rows(
      teacher={1: (10.0, 0.0)},
      **{"teacher of ours, other": {1: (20.0, 1.0)}},
      ours={1: (5.0, 0.0)},
      student={1: (5.0, 0.0)},
    ),
    "frechet",
  )
  assert found == {"ours": (0.25, pytest.approx(0.0125)), "student": (0.5, 0.0)}


def test_its_error_has_those_of_student_and_teacher():
  """Errors at several numbers of steps are of the same students, so that a mean has them whole."""
  noisy = rows(
    student={1: (10.0, 0.3), 2: (20.0, 0.6), 4: (40.0, 1.2)},
    teacher={1: (20.0, 0.4), 2: (40.0, 1.6), 4: (80.0, 4.8)},
    generator={1: (10.0, 0.4)},
  )
  found = overview.ratios(noisy, "frechet")
  assert found["student"] == pytest.approx((0.5, 0.5 * 0.05))
  assert found["generator"] == pytest.approx((0.5, 0.5 * math.hypot(0.04, 0.02)))


def test_the_file_of_the_documentation_is_made_of_the_others():
  kept, made = tables.load(overview.NAME), overview.overview()
  for row in kept["rows"]:  # other machines round otherwise
    row |= {name: pytest.approx(row[name]) for name in ("value", "stderr")}
  assert kept == made, "run make tables"


def test_ours_is_where_the_documentation_says():
  """Lowest, or within errors of it, on all but uniform text, where D-MMD is."""
  columns: dict = {}
  for row in tables.load(overview.NAME)["rows"]:
    columns.setdefault(row["nfe"], {})[row["model"]] = row["value"], row["stderr"]
  assert len(columns) == 6
  for name, found in columns.items():
    best, (least, error) = min(found.items(), key=lambda item: item[1])
    ours, own_error = found["dmmd_kernel"]
    if name == "text, uniform":
      assert best == "dmmd" and ours > least + math.hypot(error, own_error)
    else:
      assert ours <= least + math.hypot(error, own_error), (name, best)
