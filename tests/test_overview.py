"""The overview of the comparisons is what their results say."""

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


def test_its_error_has_those_of_student_and_teacher():
  noisy = rows(
    student={1: (10.0, 0.3), 2: (10.0, 0.0), 4: (10.0, 0.0)},
    teacher={1: (20.0, 0.8), 2: (20.0, 0.0), 4: (20.0, 0.0)},
  )
  assert overview.ratios(noisy, "frechet")["student"] == pytest.approx((0.5, 0.5 * 0.05 / 3))


def test_the_file_of_the_documentation_is_made_of_the_others():
  assert tables.load(overview.NAME) == overview.overview(), "run make tables"
