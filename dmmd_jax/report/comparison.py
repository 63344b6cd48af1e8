"""The student beside the teacher: at which NFE they are as good."""

import math
from typing import NamedTuple

from dmmd_jax.report.tables import Table, number, title_of

# Metrics of quality, lower is better; the first that both models have is compared.
_METRICS = ("fid", "frechet", "gradient_moment", "kernel_mmd")
# Values that differ by at most so many standard errors of the difference are called as good.
_WITHIN = 2.0

# Where a student stands, in a sentence and in a cell, with the NFE of the teacher's rows.
_SENTENCES = {
  "equal": "as good as the teacher at {}",
  "between": "between the teacher at {} and at {}",
  "worse": "worse than the teacher at {}",
  "better": "better than the teacher at all its NFE, the best of which is {}",
}
_CELLS = {"equal": "{}", "between": "{} to {}", "worse": "below {}", "better": "better than {}"}


class Match(NamedTuple):
  """A row of the student, its `place`, a key of `_CELLS`, and the teacher's rows that say so."""

  student: dict
  place: str
  teachers: list[dict]


def compare(results: dict) -> tuple[str, list[Match]] | None:
  """The metric that is compared, and the student's rows in the order of NFE.

  None without a teacher and a student that have a metric of quality in common.
  """
  for metric in _METRICS:
    teachers, students = (_rows(results, model, metric) for model in ("teacher", "student"))
    if teachers and students:
      return metric, [_match(student, teachers) for student in students]
  return None


def headline(results: dict) -> str:
  """The student at the steps that it was distilled for, beside the teacher; "" without both."""
  compared = compare(results)
  if compared is None:
    return ""
  metric, matches = compared
  made = results["inputs"].get("student", {}).get("config", {})
  steps = made.get("distill", {}).get("student_nfe")
  own = [match for match in matches if match.student["steps"] == steps]
  student, place, teachers = (own or matches)[-1]
  place = _SENTENCES[place].format(*(row["nfe"] for row in teachers))
  values = f"{_value(student)}, the teacher's {' and '.join(map(_value, teachers))}"
  return f"The student at {student['nfe']} NFE is {place}. {title_of(metric)}: {values}."


def comparison_table(results: dict) -> Table | None:
  """The student at all its NFE, and the teacher's that are as good; None without both."""
  compared = compare(results)
  if compared is None:
    return None
  metric, matches = compared
  rows = [
    [
      str(student["nfe"]),
      _value(student),
      _CELLS[place].format(*(row["nfe"] for row in teachers)),
      " to ".join(map(_value, teachers)),
    ]
    for student, place, teachers in matches
  ]
  return Table(
    f"Student and teacher. {title_of(metric)}",
    ["student, NFE", "its value", "teacher, NFE", "its value"],
    rows,
    "Of the teacher the fewest NFE at which it is as good, or the two between which it becomes so."
    " Two values are as good if they differ by at most two standard errors of the difference.",
  )


def _match(student: dict, teachers: list[dict]) -> Match:
  worse = []
  for teacher in teachers:
    if not _is_worse(teacher, student):
      if not _is_worse(student, teacher):
        return Match(student, "equal", [teacher])
      return Match(student, "between" if worse else "worse", [*worse, teacher])
    worse = [teacher]
  return Match(student, "better", [min(teachers, key=lambda row: row["value"])])


def _is_worse(row: dict, other: dict) -> bool:
  error = math.hypot(row["stderr"] or 0.0, other["stderr"] or 0.0)
  return row["value"] > other["value"] + _WITHIN * error


def _rows(results: dict, model: str, metric: str) -> list[dict]:
  """Rows of a model with a value, in the order of NFE."""
  found = [
    row
    for row in results["rows"]
    if (row["model"], row["metric"]) == (model, metric) and math.isfinite(row["value"])
  ]
  return sorted(found, key=lambda row: row["nfe"])


def _value(row: dict) -> str:
  return number(row["value"], row["stderr"])
