"""All comparisons of methods in one table: their students beside their teachers.

    make tables

writes `docs/results/methods_overview.json`, for `benchmarks.tables`, from the results of
`benchmarks.methods` there: the first metric of a student over that of its teacher in as many steps,
as the geometric mean of 1, 2 and 4 (of 1 alone for a generator of one step). Below 1 a student is
better than its teacher.
"""

import math
import statistics

from benchmarks import methods, tables

# Data and process, the results file, and the data set of `benchmarks.methods`.
COMPARISONS = {
  "digits": ("digits_methods", "digits"),
  "digits, uniform": ("digits_uniform_methods", "digits"),
  "Markov model": ("hmm_methods", "hmm"),
  "Markov model, uniform": ("hmm_uniform_methods", "hmm"),
  "text": ("text_methods", "text"),
  "text, uniform": ("text_uniform_methods", "text"),
}
STEPS = (1, 2, 4)
NAME = "methods_overview"


def ratios(rows: list[dict], metric: str) -> dict[str, tuple[float, float]]:
  """The geometric mean over `STEPS` of student by its teacher, and its error, of every student."""
  models: dict[str, dict[int, tuple[float, float]]] = {}
  for row in rows:
    if row["metric"] == metric and row["nfe"] in STEPS:
      models.setdefault(row["model"], {})[row["nfe"]] = row["value"], row["stderr"]
  teachers = {name: models.pop(name) for name in list(models) if name.startswith("teacher")}
  of_student = {
    student: cells for name, cells in teachers.items() for student in tables.students_of(name)
  }
  found = {}
  for name, own in models.items():
    teacher = of_student.get(name, teachers["teacher"])
    mean = statistics.geometric_mean([own[nfe][0] / teacher[nfe][0] for nfe in own])
    # Those of the same students at other numbers of steps are no independent errors.
    relative = [
      statistics.mean(cells[nfe][1] / cells[nfe][0] for nfe in own) for cells in (own, teacher)
    ]
    found[name] = mean, mean * math.hypot(*relative)
  return found


def overview() -> dict:
  """What `benchmarks.tables` shows."""
  rows = []
  for column, (name, data) in COMPARISONS.items():
    found = ratios(tables.load(name)["rows"], methods.DATA[data].metrics[0])
    rows += [
      {"model": model, "metric": "ratio", "nfe": column, "value": value, "stderr": error}
      for model, (value, error) in found.items()
    ]
  return {
    "caption": "Mean of 1, 2 and 4 steps (Di[M]O: 1), from docs/methods.md; ± has the teacher's"
    " error, too.",
    "column": "geometric mean",
    "rows": rows,
  }


if __name__ == "__main__":
  tables.save(NAME, overview())
