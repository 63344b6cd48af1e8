"""What `python -m dmmd_jax.sample` refuses, before jax is imported and anything is drawn.

That it prints text is tested in `test_text.py`, on a run.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import text_dmmd
from dmmd_jax import sample
from dmmd_jax import workdir as workdirs


@pytest.fixture
def run_on_text(tmp_path, monkeypatch):
  """A workdir as if it had been trained; nothing may be drawn from it."""

  def draw(*_):
    raise AssertionError("went on to draw")

  config = text_dmmd.get_config()
  monkeypatch.setattr(workdirs, "load_config", lambda folder, phase: config)
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
  refuses(capsys, "file is a file; expected the workdir", f"--workdir={tmp_path}/file")
  refuses(capsys, "below does not exist", f"--workdir={tmp_path}/file/below")
  refuses(capsys, "no finished checkpoint of the phase 'teacher'", f"--workdir={tmp_path}")

  def found(content):
    config = json.loads(content)
    monkeypatch.setattr(workdirs, "load_config", lambda *_: ConfigDict(config))
    return f"--workdir={tmp_path}"

  for content in ('{"dataset": {"name": "digits"}}', '{"dataset": {"name": "cifar10"}}'):
    refuses(capsys, "is a run on", found(content))
  for content in ("{}", '{"dataset": 1}', "[1]", '{"dataset": {"alphabet": "latin"}}'):
    monkeypatch.setattr(workdirs, "load_config", lambda *_, c=content: ConfigDict(json.loads(c)))
    refuses(capsys, "teacher/config.json is damaged (", f"--workdir={tmp_path}")
  monkeypatch.setattr(workdirs, "load_config", lambda *_: json.loads("{"))
  refuses(capsys, "teacher/config.json is damaged (", f"--workdir={tmp_path}")


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
