"""What `python -m dmmd_jax.sample` refuses, before jax is imported and anything is drawn.

That it prints text is tested in `test_text.py`, on a run.
"""

import subprocess
import sys

import numpy as np
import pytest

from configs import text_dmmd
from dmmd_jax import records, sample


def source(config):
  return records.Source(None, {"config": config})


@pytest.fixture
def run_on_text(tmp_path, monkeypatch):
  """A workdir as if it had been trained; nothing may be drawn from it."""

  def draw(*_, **__):
    raise AssertionError("went on to draw")

  config = text_dmmd.get_config()
  monkeypatch.setattr(records, "find_model", lambda *_: source(config.to_dict()))
  monkeypatch.setattr(sample, "_print_texts", draw)
  (tmp_path / "run").mkdir()
  return tmp_path / "run", config


def refuses(capsys, message, *args):
  with pytest.raises(SystemExit) as stopped:
    sample.main(list(map(str, args)))
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
  assert "\\n" not in error and "\\'" not in error


@pytest.mark.parametrize(
  ("option", "values"),
  [
    ("nfe", ("0", "-1", "1.5", "nan", "1000000000000")),
    ("num", ("0", "-1", "many")),
    ("temperature", ("0", "-1", "nan", "inf", "1e-40", "1e40")),
    ("top_p", ("0", "1.1", "nan", "-inf")),
    ("seed", ("-1", "4294967296", "nan")),
  ],
)
def test_numbers_out_of_range_are_refused(run_on_text, capsys, option, values):
  for value in values:
    expected = f"argument --{option}: found '{value}'; expected"
    refuses(capsys, expected, f"--workdir={run_on_text[0]}", f"--{option}={value}")


@pytest.mark.parametrize(
  ("prompt", "message"),
  [
    ("привет", "not in the alphabet 'text8', such as"),
    ("a" * 64, "the prompt has 64 tokens, a whole text 64; shorten it"),
    ("a" * 10**6, "the prompt has 1000000 tokens"),
    ("?!", "has none of the characters of the prompt"),
    ("\u0301", "has none of the characters of the prompt"),
    ("a\udcff", "is not UTF-8"),
  ],
)
def test_prompts_that_the_model_cannot_go_on_from_are_refused(run_on_text, capsys, prompt, message):
  refuses(capsys, message, f"--workdir={run_on_text[0]}", f"--prompt={prompt}")


def test_a_prompt_of_dropped_characters_alone_is_refused(run_on_text, capsys):
  folder, config = run_on_text
  config.dataset.unknown = "drop"
  refuses(capsys, "has none of the characters", f"--workdir={folder}", "--prompt=привет")
  with pytest.raises(AssertionError, match="went on"):
    sample.main([f"--workdir={folder}", "--prompt=привет a"])


def test_a_home_folder_is_found(run_on_text, monkeypatch):
  folder, config = run_on_text
  monkeypatch.setenv("HOME", str(folder.parent))
  config.dataset.alphabet, config.dataset.tokenizer = "gpt2", "~/bpe"
  from tokenizers import ByteLevelBPETokenizer

  (folder.parent / "bpe").mkdir()
  ByteLevelBPETokenizer().save_model(str(folder.parent / "bpe"))
  with pytest.raises(AssertionError, match="went on"):
    sample.main([f"--workdir={folder}"])


def test_workdirs_without_a_run_on_text_are_refused(tmp_path, capsys, monkeypatch):
  (tmp_path / "file").touch()
  refuses(capsys, "nowhere does not exist; expected the workdir", "--workdir=nowhere")
  refuses(capsys, "file is a file; name a folder", f"--workdir={tmp_path}/file")
  refuses(capsys, "which is a file; name a folder", f"--workdir={tmp_path}/file/below")
  refuses(capsys, "no trained teacher in", f"--workdir={tmp_path}")

  for name in ("digits", "cifar10"):
    monkeypatch.setattr(records, "find_model", lambda *_, n=name: source({"dataset": {"name": n}}))
    refuses(capsys, f"is a run on {name}; expected one on text", f"--workdir={tmp_path}")


def test_a_model_that_is_not_finished_is_refused_unless_asked_for(tmp_path, capsys, monkeypatch):
  folder = tmp_path / "teacher"
  records.begin(folder, records.depends(text_dmmd.get_config(), "teacher", {}))
  (folder / "checkpoints" / "7").mkdir(parents=True)
  refuses(capsys, "is not finished, its last checkpoint is of step 7", f"--workdir={tmp_path}")
  monkeypatch.setattr(sample, "_print_texts", lambda args, source, *_, **__: print(source.step))
  sample.main([f"--workdir={tmp_path}", "--unfinished"])
  assert capsys.readouterr().out == "7\n"
  (folder / "config.json").write_text("{")
  refuses(capsys, "config.json is damaged", f"--workdir={tmp_path}", "--unfinished")


def test_what_is_refused_is_refused_without_jax(tmp_path):
  program = (
    "import sys\nfrom dmmd_jax import sample\nfrom dmmd_jax.metrics import __main__ as metrics\n"
    "for main, args in ((sample.main, sys.argv[1:2]), (metrics.main, sys.argv[2:])):\n"
    "  try: main(args)\n"
    "  except SystemExit as stopped: assert stopped.code == 2\n"
    "print('jax' in sys.modules)"
  )
  np.save(tmp_path / "a.npy", np.zeros((200, 2), int))
  args = ["--workdir=nowhere", f"{tmp_path}/a.npy", "--reference=nowhere"]
  done = subprocess.run(
    [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60
  )
  assert done.stdout == "False\n" and done.stderr.count("nowhere does not exist") == 2, done.stderr


def test_a_damaged_model_is_one_line(run_on_text, capsys, monkeypatch):
  from dmmd_jax.checkpoints import DamagedModelError

  def draw(*_, **__):
    raise DamagedModelError("checkpoints", 7, "its parameters are not those recorded")

  monkeypatch.setattr(sample, "_print_texts", draw)
  refuses(capsys, "checkpoint 7 of checkpoints is damaged", f"--workdir={run_on_text[0]}")
