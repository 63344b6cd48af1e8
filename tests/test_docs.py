"""What the documentation says can be done, links and commands, can be."""

import argparse
import importlib
import json
import pathlib
import re
import shlex

import numpy as np
import pytest
from PIL import Image

from dmmd_jax import config as config_checks
from dmmd_jax import config_file, image_size

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(?:^    .*\n)+", re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# Names for what a reader fills in.
PATTERN = re.compile(r"=?\b[A-Z]{4,}\b")
LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")


def of_pages(find):
  """What `find` finds in each page, with the page's name as the test's."""
  return [
    pytest.param(page, found, id=f"{page.relative_to(ROOT)}: {found}")
    for page in PAGES
    for found in dict.fromkeys(find(page.read_text()))
  ]


def commands(text):
  """Commands in indented blocks and between backquotes, in one line each, without comments."""
  blocks = "\n".join(BLOCK.findall(text)).replace("\\\n", " ")
  lines = [*blocks.splitlines(), *SPAN.findall(text)]
  lines = [" ".join(line.split()) for line in lines]
  begun = [line for line in lines if line.startswith(("python -m ", "make "))]
  return [line for line in begun if not PATTERN.search(line)]


def local_links(text):
  return [link + anchor for link, anchor in LINK.findall(text) if "://" not in link]


def anchors(text):
  """What links to the headings of a page are called."""
  headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
  return ["#" + re.sub(r"[^\w -]", "", name.lower()).replace(" ", "-") for name in headings]


@pytest.mark.parametrize(("page", "link"), of_pages(local_links))
def test_links_lead_somewhere(page, link):
  path, mark, anchor = link.partition("#")
  target = page.parent / path if path else page
  assert target.exists() and (not mark or mark + anchor in anchors(target.read_text()))


def source_of(module):
  path = ROOT / module.replace(".", "/")
  return (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()


class Parsed(Exception):  # noqa: N818 (no error: how a test stops a command)
  pass


@pytest.fixture
def parse_alone(monkeypatch):
  """Commands end as soon as they have read their arguments."""
  parse = argparse.ArgumentParser.parse_args

  def parse_and_stop(*args):
    parse(*args)
    raise Parsed

  monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)


@pytest.fixture
def home(tmp_path, monkeypatch):
  """A home with the images that commands speak of."""
  (tmp_path / "images").mkdir()
  for i in range(2):
    Image.new("L", (28, 28), i).save(tmp_path / "images" / f"{i}.png")
  np.savez(tmp_path / "mnist.npz", train=np.zeros((20, 28, 28), np.uint8))
  monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(("page", "command"), of_pages(commands))
def test_commands_are_there_and_take_these_arguments(page, command, monkeypatch, parse_alone, home):
  monkeypatch.chdir(ROOT)
  words = shlex.split(command, comments=True)
  if words[0] == "make":
    assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    return
  module, args = words[2], words[3:]
  if module == "dmmd_jax" and args:
    module, args = f"dmmd_jax.{args[0]}", args[1:]
  if module == "dmmd_jax.main":
    overrides, others = config_file.split(args)
    if others == ["--config"]:
      return  # the list of fields
    config = next(word.removeprefix("--config=") for word in others if word.startswith("--config="))
    loaded, given = config_file.load(config, overrides)
    image_size.settle(loaded, given)
    config_checks.check(loaded)
    return
  if "Parser(" not in source_of(module):
    assert not args  # a script without options, not to be run here
    return
  is_package = (ROOT / module.replace(".", "/")).is_dir()
  name = f"{module}.__main__" if is_package else module
  monkeypatch.setattr("sys.argv", [name, *args])
  with pytest.raises(Parsed):
    importlib.import_module(name).main()


def test_the_readme_is_short():
  lines = (ROOT / "README.md").read_text().splitlines()
  assert len(lines) <= 150
  tables = ("|", "<!-- table ")
  assert [line for line in lines if len(line) > 100 and not line.startswith(tables)] == []


def test_the_readme_has_the_ratios_to_pytorch_that_were_measured():
  rows = json.loads((ROOT / "docs" / "results" / "torch_dit.json").read_text())["rows"]
  ratios = {row["model"]: row["value"] for row in rows if row["metric"] == "step, times ours"}
  text = " ".join((ROOT / "README.md").read_text().split())
  assert f"PyTorch takes {ratios['PyTorch']:.2f} times as long" in text
  assert f"torch.compile {ratios['torch.compile']:.2f} times" in text
