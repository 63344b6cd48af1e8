"""What an evaluation leaves: tables, figures, samples, a film, a page. Reads no other files."""

import json

from etils import epath

from dmmd_jax import integrity
from dmmd_jax.integrity import Notes
from dmmd_jax.report import figures, film, page, samples
from dmmd_jax.report.comparison import headline
from dmmd_jax.report.evaluation import Evaluation
from dmmd_jax.report.tables import Reference, notes, results_table
from dmmd_jax.workdir import sizes, write_whole

__all__ = ["Evaluation", "Reference", "results_table", "save", "save_results"]

# All that `save` writes, by any version; the results first, as without them nothing is complete.
_FILES = (
  "results.json", "results.md", "report.html", "quality_vs_nfe.png", "film.gif", "samples.md",
  "samples_*.png", "samples_*.npz",
)  # fmt: skip


def save(directory: epath.Path, evaluation: Evaluation) -> Notes:
  """Writes all files of an evaluation in place of those of an earlier one, the results last.

  Returns notes of them; the many bytes of samples are vouched for by the checksums of zip files.
  """
  for pattern in _FILES:
    for file in list(directory.glob(pattern)):
      file.unlink()
  samples.save_all(directory, evaluation)
  if evaluation.decode:
    samples.save_texts(directory, evaluation)
  else:
    samples.save_images(directory, evaluation)
  gif = None
  if evaluation.paths:
    gif = film.make(evaluation.paths, evaluation.num_categories, evaluation.decode)
    (directory / "film.gif").write_bytes(gif)
  write_whole(directory / "report.html", page.make(evaluation, gif))
  save_results(directory, evaluation.results)
  names = sorted({file.name for pattern in _FILES for file in directory.glob(pattern)})
  found = sizes(directory)
  by_size = {name: found[name] for name in names if name.endswith(".npz")}
  return by_size | integrity.by_contents(directory, [n for n in names if n not in by_size])


def save_results(directory: epath.Path, results: dict) -> None:
  """Writes `results.md`, `quality_vs_nfe.png` and `results.json`, as of an `Evaluation`."""
  said = [*notes(results), headline(results)]
  (directory / "results.md").write_text(
    results_table(results) + "".join(f"\n{line}\n" for line in said if line)
  )
  figures.save_quality(directory / "quality_vs_nfe.png", results)
  write_whole(directory / "results.json", json.dumps(results, indent=1) + "\n")
