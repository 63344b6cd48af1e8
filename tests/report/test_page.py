"""One page that needs no other file, and says what results.md says."""

import base64
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from dmmd_jax.report import page, pictures, tables
from dmmd_jax.report.comparison import headline
from tests.report.example import RESULTS, evaluation, images

EVIL = '<script>alert("x")</script>&'
GIF = b"GIF89a film"


@pytest.fixture(scope="module")
def made():
  return page.make(evaluation(), GIF)


def text_of(made):
  """What a reader sees, without figures."""
  made = re.sub(r"<(style|svg).*?</\1>", "", made, flags=re.DOTALL)
  return html.unescape(re.sub(r"<[^>]*>", " ", made))


def test_the_page_has_what_the_tables_have(made):
  text = text_of(made)
  assert headline(RESULTS) in text and "student of 8 steps by dmmd" in text
  for table in tables.tables(RESULTS):
    assert table.title in text and table.note in text
    for row in table.rows:
      assert re.search(r"\s+".join(map(re.escape, filter(None, row))), text), row
  for said in (*tables.notes(RESULTS), *tables.remarks(RESULTS)):
    assert said in text
  for recorded in ("2400", "7, not finished", "7eac", "da7a", "1 x 1 x 1 cpu", "network.width"):
    assert recorded in text


def test_the_page_needs_no_other_file_and_runs_nothing(made):
  assert not re.search(r"<(script|link|iframe|object|base)\b", made)
  links = re.findall(r"""(?:src|href|srcset|action)\s*=\s*["']([^"']*)""", made)
  assert links and all(link.startswith(("data:", "#")) for link in links)
  assert not re.search(r"url\((?!#)", made) and "@import" not in made
  assert "default-src 'none'" in made and 'name="viewport"' in made
  assert "prefers-color-scheme: dark" in made


def test_pictures_are_the_samples_in_the_order_of_the_cells(made):
  found = re.findall(r'<img class="(\w+)"[^>]*src="data:image/(\w+);base64,([^"]*)"', made)
  assert [(name, kind) for name, kind, _ in found] == [("film", "gif")] + 4 * [("pixels", "png")]
  contents = [base64.b64decode(data) for _, _, data in found]
  assert contents[0] == GIF
  for content, seed in zip(contents[1:], (0, 1, 2, 3), strict=True):
    expected = pictures.grid(images(30, seed), 17, 4, 10)
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(content))), expected)


def test_every_metric_has_a_curve(made):
  assert len(re.findall(r"<svg.*?</svg>", made, flags=re.DOTALL)) == 2 and "<?xml" not in made


def test_all_that_users_wrote_is_escaped():
  results = RESULTS | {
    "config": RESULTS["config"] | {"dataset": {"name": "textfile", "path": f"/data/{EVIL}"}},
    "inputs": RESULTS["inputs"] | {EVIL: {"step": EVIL, "digest": EVIL, "config": {EVIL: EVIL}}},
    "made_by": {EVIL: EVIL},
  }
  made = page.make(evaluation(title=EVIL, results=results, decode=lambda row: EVIL), None)
  assert "<script" not in made and 'alert("x")' not in made
  assert f"/data/{EVIL}" in text_of(made)
  assert "<blockquote>&lt;script&gt;" in made


def test_only_masks_are_said_to_be_orange(made):
  assert "Masks are orange" in made
  uniform = RESULTS["config"] | {"process": {"name": "uniform"}}
  made = page.make(evaluation(results=RESULTS | {"config": uniform}), GIF)
  assert "orange" not in made and "the same noise" in made


def test_a_teacher_alone_has_a_page_without_a_comparison():
  results = RESULTS | {
    "rows": [r for r in RESULTS["rows"] if r["model"] == "teacher"],
    "seconds": RESULTS["seconds"][:2],
    "inputs": {"data": RESULTS["inputs"]["data"]},
    "bits_per_token": {},
  }
  text = text_of(page.make(evaluation(results=results), None))
  assert "student" not in text and "From noise" not in text and "teacher" in text
