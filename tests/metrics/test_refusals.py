"""What `python -m dmmd_jax.metrics` refuses; that it measures is tested in `test_text.py`."""

import pathlib

import numpy as np
import pytest

from configs import text_dmmd
from dmmd_jax import records
from dmmd_jax.metrics import __main__ as command

GPT2 = pathlib.Path(__file__).parents[1] / "networks" / "golden_gpt2"  # 2 layers


@pytest.fixture
def folder(tmp_path, monkeypatch):
  monkeypatch.setenv("HOME", str(tmp_path))
  arrays = {
    "good": np.arange(80).reshape(8, 10) % 27,
    "longer": np.zeros((8, 65), int),
    "other": np.zeros((8, 9), int),
    "one": np.zeros((1, 10), int),
    "huge": np.full((8, 10), 10**12),
    "negative": np.full((8, 10), -1),
    "floats": np.zeros((8, 10)),
    "flat": np.zeros(10, int),
    "narrow": np.zeros((8, 1), int),
    "nothing": np.zeros((0, 10), int),
  }
  for name, array in arrays.items():
    np.save(tmp_path / f"{name}.npy", array)
  np.savez(tmp_path / "npz.npy", **arrays)
  (tmp_path / "npz.npy.npz").rename(tmp_path / "npz.npy")
  (tmp_path / "file").touch()
  (tmp_path / "run").mkdir()
  return tmp_path


@pytest.mark.parametrize(
  ("samples", "args", "message"),
  [
    ("good", ["--batch_size=0"], "expected a whole number from 1"),
    ("good", ["--batch_size=5"], "make no pair of minibatches of 5; expected a --batch_size of at"),
    ("one", ["--batch_size=1"], "minibatches of 1; give more"),
    ("good", ["--data=~/one.npy", "--batch_size=1"], "8 samples and 1 data make no pair"),
    ("good", ["--data=~/other.npy"], "samples have 10 tokens, data 9; cut them alike"),
    ("good", ["--data=~/nowhere.npy"], "nowhere.npy does not exist"),
    ("npz", [], "holds several arrays"),
    ("floats", [], "float64; expected integer tokens"),
    ("flat", [], "expected integer tokens [n, D]"),
    ("narrow", [], "expected integer tokens [n, D], D >= 2"),
    ("nothing", [], "expected integer tokens [n, D]"),
    ("huge", [], "from 1000000000000 to 1000000000000; the reference model knows 0 to 26"),
    ("negative", [], "from -1 to -1; the reference model knows 0 to 26"),
    ("longer", [], "samples have 65 tokens; the reference model takes 64"),
    ("good", ["--reference=~/nowhere"], "nowhere does not exist; expected the workdir"),
    ("good", ["--reference=~/file"], "file is a file; name a folder"),
  ],
)
def test_what_cannot_be_measured_is_one_clear_line(
  folder, capsys, monkeypatch, samples, args, message
):
  config = text_dmmd.get_config()
  source = records.Source(folder, {"config": config.to_dict()})
  monkeypatch.setattr(records, "find_model", lambda *_: source)
  with pytest.raises(SystemExit) as stopped:
    command.main([f"~/{samples}.npy", "--reference=~/run", "--batch_size=2", *args])
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error


def test_a_reference_that_is_missing_or_damaged_is_one_clear_line(folder, capsys):
  def refuses(message, reference="~/run"):
    with pytest.raises(SystemExit) as stopped:
      command.main(["~/good.npy", f"--reference={reference}", "--batch_size=2"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error

  refuses("no trained reference in")
  (folder / "run" / "model.safetensors").write_bytes(
    (GPT2 / "model.safetensors").read_bytes()[:-100]
  )
  refuses("cannot read the weights in")
  np.save(folder / "good.npy", np.full((8, 10), 10**12))
  refuses("the reference model knows 0 to", str(GPT2))
