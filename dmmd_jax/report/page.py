"""One page on an evaluation, `report.html`: a single file without scripts that needs no other."""

import base64
import html
from collections.abc import Iterable

import numpy as np

from dmmd_jax.report import figures, pictures
from dmmd_jax.report.comparison import comparison_table, headline
from dmmd_jax.report.evaluation import Evaluation
from dmmd_jax.report.style import STYLE
from dmmd_jax.report.tables import Table, notes, remarks, split_name, tables, title_of

# Of a model at one number of steps.
_ROWS, _COLUMNS, _TEXTS = 4, 10, 4

# Nothing is run and nothing is loaded, whatever a text on the page says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def make(evaluation: Evaluation, gif: bytes | None) -> str:
  """The page as HTML. All that comes from configs, data and samples is escaped."""
  results = evaluation.results
  sections = [
    _section("Quality and cost", _curves(results)),
    _section("From noise to samples", _film(results, gif)) if gif else "",
    _section("Samples", _samples(evaluation)),
    _section("Tables", *map(_table, tables(results)), *map(_paragraph, remarks(results))),
    _section("Made from", _inputs(results["inputs"]), *_configs(results)),
    _section("Made by", _rows(results["made_by"].items())),
  ]
  title = _text(evaluation.title)
  return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{_paragraph(_summary(results))}
</header>
<main>
{_lead(results)}
{"".join(sections)}
</main>
</body>
</html>
"""


def _summary(results: dict) -> str:
  """Data set, process and network, and how the student was distilled."""
  config = results["config"]
  parts = [config["dataset"]["name"], f"{config['process']['name']} diffusion"]
  parts.append(config["network"]["name"])
  distill = results["inputs"].get("student", {}).get("config", {}).get("distill")
  if distill:
    parts.append(f"a student of {distill['student_nfe']} steps by {distill['method']}")
  return " · ".join(parts)


def _lead(results: dict) -> str:
  """The outcome in a sentence, the table that it is from, and what has to be known of it."""
  said, table = headline(results), comparison_table(results)
  parts = [f'<p class="headline">{_text(said)}</p>'] if said else []
  parts += [_table(table)] if table else []
  parts += map(_paragraph, notes(results))
  return f'<section class="lead">{"".join(parts)}</section>' if parts else ""


def _curves(results: dict) -> str:
  panels = [
    f"<figure><figcaption>{_text(title_of(metric))}</figcaption>{svg}</figure>"
    for metric, svg in figures.quality_svgs(results).items()
  ]
  return f'<div class="panels">{"".join(panels)}</div>'


def _samples(evaluation: Evaluation) -> str:
  """The first samples of each cell of the tables, and real data at the end."""
  split = split_name(evaluation.results["split"])
  parts = [_paragraph("The first of each, not selected.")]
  by_model: dict[str, list[str]] = {}
  for model, _, nfe, tokens in evaluation.cells:
    by_model.setdefault(model, []).append(_shown(evaluation, tokens, f"{nfe} NFE"))
  by_model["real data"] = [_shown(evaluation, evaluation.real, f"{split} split")]
  for model, cells in by_model.items():
    parts.append(f'<h3>{_text(model)}</h3><div class="panels">{"".join(cells)}</div>')
  return "".join(parts)


def _shown(evaluation: Evaluation, tokens: np.ndarray, caption: str) -> str:
  if evaluation.decode:
    texts = (evaluation.decode(row) for row in tokens[:_TEXTS])
    shown = "".join(f"<blockquote>{_text(text)}</blockquote>" for text in texts)
  else:
    image = pictures.grid(tokens, evaluation.num_categories, _ROWS, _COLUMNS)
    shown = _image(pictures.png(image), "png", f"samples, {caption}", "pixels")
  return f"<figure><figcaption>{_text(caption)}</figcaption>{shown}</figure>"


def _film(results: dict, gif: bytes) -> str:
  is_masked = results["config"]["process"]["name"] == "masked"
  said = "Masks are orange." if is_masked else "All begin with the same noise."
  return _image(gif, "gif", "samples as they are drawn", "film") + _paragraph(said)


def _inputs(inputs: dict) -> str:
  """Which model, data and files all was measured with."""
  rows = []
  for name, made in inputs.items():
    step = str(made.get("step", "")) + ("" if made.get("finished", True) else ", not finished")
    digest = made.get("digest") or made.get("fingerprint") or made.get("sha256") or ""
    if isinstance(digest, dict):  # of several files
      digest = ", ".join(f"{file} {value}" for file, value in digest.items())
    rows.append([name, step, digest])
  return _table(Table("", ["", "step", "digest"], rows), "words")


def _configs(results: dict) -> list[str]:
  """What made the evaluation and each of the models, to be unfolded."""
  configs = {"evaluation": results["config"]} | {
    name: made["config"] for name, made in results["inputs"].items() if "config" in made
  }
  return [
    f"<details><summary>Config of the {_text(name)}</summary>{_rows(_fields(config))}</details>"
    for name, config in configs.items()
  ]


def _fields(config: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
  """The fields of nested sections by their whole names."""
  for name, value in config.items():
    if isinstance(value, dict):
      yield from _fields(value, f"{prefix}{name}.")
    else:
      yield f"{prefix}{name}", value


def _rows(pairs: Iterable[tuple[str, object]]) -> str:
  rows = (f"<tr><th>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in pairs)
  return f'<div class="scroll"><table class="words">{"".join(rows)}</table></div>'


def _table(table: Table, css_class: str = "numbers") -> str:
  head = "".join(f"<th>{_text(cell)}</th>" for cell in table.header)
  rows = "".join(
    f"<tr><th>{_text(row[0])}</th>{''.join(f'<td>{_text(cell)}</td>' for cell in row[1:])}</tr>"
    for row in table.rows
  )
  parts = [
    f"<h3>{_text(table.title)}</h3>" if table.title else "",
    f'<div class="scroll"><table class="{css_class}"><thead><tr>{head}</tr></thead>',
    f"<tbody>{rows}</tbody></table></div>",
    _paragraph(table.note) if table.note else "",
  ]
  return "".join(parts)


def _section(title: str, *parts: str) -> str:
  return f"<section><h2>{_text(title)}</h2>{''.join(parts)}</section>"


def _paragraph(said: str) -> str:
  return f"<p>{_text(said)}</p>"


def _image(data: bytes, kind: str, alt: str, css_class: str) -> str:
  url = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
  return f'<img class="{css_class}" alt="{_text(alt)}" src="{url}">'


def _text(value: object) -> str:
  """As text, whatever it contains; None is a dash."""
  return html.escape("–" if value is None else str(value))
