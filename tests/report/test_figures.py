"""Curves of quality, in files and within a page."""

from dmmd_jax.report import figures
from tests.report.example import RESULTS


def test_curves_within_a_page_have_its_colour_and_name_the_models():
  svgs = figures.quality_svgs(RESULTS)
  assert list(svgs) == ["frechet", "entropy"]
  for svg in svgs.values():
    assert svg.startswith("<svg") and "currentColor" in svg and figures._INK not in svg
    assert ">student</text>" in svg and ">NFE</text>" in svg  # no outlines, which are long
  assert "real data" in svgs["frechet"] and "real data" not in svgs["entropy"]
  assert svgs == figures.quality_svgs(RESULTS)


def test_figures_in_files(tmp_path):
  figures.save_quality(tmp_path / "quality.png", RESULTS)
  assert (tmp_path / "quality.png").read_bytes().startswith(b"\x89PNG")
