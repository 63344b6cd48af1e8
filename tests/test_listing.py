"""What --config and --help print."""

import re

from dmmd_jax import config_file, listing
from dmmd_jax.settings import everything


def sections(text):
  """Words that begin a line, by the title above."""
  found, title = {}, ""
  for line in text.splitlines():
    if re.match(r"\S", line):
      title = line
    elif entry := re.match(r"  (\S.*)", line):
      found.setdefault(title, []).append(entry[1])
  return found


def test_everything_is_listed_once_in_a_hundred_columns():
  text = listing.everything()
  assert max(map(len, text.splitlines())) <= 100
  found = sections(text)
  fields = []
  for title, entries in found.items():
    if title.startswith("Configs"):
      assert any(x.startswith("digits_dmmd ") and "the demo" in x for x in entries)
      continue
    named = re.sub(r" \(for .* only\)", "", title).split(", ")
    prefixes = [""] if " " in named[0] else [f"{section}." for section in named]
    names = [entry.split()[0] for entry in entries]
    fields += [prefix + name for prefix in prefixes for name in names]
  assert sorted(fields) == sorted(everything())
  joined = " ".join(text.split())
  for field in everything().values():
    assert " ".join(field.doc.split()) in joined and f"Expected: {field.rule}." in joined


def test_a_config_is_listed_with_its_values():
  config, given = config_file.load("text_dmmd", {"preset": "quick"})
  config_file.apply_preset(config, given)
  text = listing.of_config(config)
  assert max(map(len, text.splitlines())) <= 100
  found = sections(text)
  assert any(x.startswith("num_steps = 1200 ") for x in found["teacher"])
  assert "student_nfe = (4, 16)" in [x.partition("  ")[0] for x in found["evaluate"]]
  assert "teacher.num_steps = 1200" in found["--config.preset=quick"]
  values = [name for name, _ in config_file.flat(config) if not name.startswith("presets.")]
  shown = [entry for title, entries in found.items() if "preset=" not in title for entry in entries]
  assert len(values) == len([entry for entry in shown if " = " in entry])


def test_a_config_that_is_broken_is_listed_without_being_run(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / "configs").mkdir()
  (tmp_path / "configs" / "mine.py").write_text('"""Mine.\n\nMore."""\n\nraise SystemExit(3)\n')
  (tmp_path / "configs" / "broken.py").write_text("def get_config(:\n")
  text = listing.everything()
  assert re.search(r"^  mine +Mine\.$", text, re.M) and "raise" not in text
  assert re.search(r"^  broken +\(not valid Python\)$", text, re.M)
