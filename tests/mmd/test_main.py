"""The command `python -m dmmd_jax.mmd` on files as its users bring them."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dmmd_jax.mmd import __main__ as command
from dmmd_jax.mmd import mmd2, two_sample_test
from dmmd_jax.mmd.kernels import Hamming, Linear, NGram


@pytest.fixture
def files(tmp_path):
  rng = np.random.default_rng(0)
  arrays = {
    "tokens": rng.integers(0, 5, (60, 8)),
    "other": rng.integers(0, 4, (50, 8)),
    "image": rng.integers(0, 4, (50, 8, 8, 3)),
    "features": rng.normal(size=(40, 3)),
    "text": np.array([["a", "b"]] * 3),
    "flat": np.arange(5),
  }
  for name, array in arrays.items():
    np.save(tmp_path / f"{name}.npy", array)
  (tmp_path / "broken.npy").write_bytes(b"not an array")
  np.savez(tmp_path / "several.npz", **arrays)
  return tmp_path, arrays


def test_prints_what_the_functions_give(files, capsys):
  folder, arrays = files
  command.main([f"{folder}/tokens.npy", f"{folder}/other.npy", "--json", "--kernel=hamming,linear"])
  result = json.loads(capsys.readouterr().out)
  expected = mmd2(arrays["tokens"], arrays["other"])
  assert result["kernels"][0]["mmd2"] == pytest.approx(expected.value, rel=1e-4)
  assert result["kernels"][0]["stderr"] == pytest.approx(expected.stderr, rel=1e-4)
  assert result["p_value"] < 0.01 and result["num_samples"] == [60, 50]

  assert result["estimator"] == "unbiased" and result["permutations"] == 1000
  kernels = [Hamming(), Linear()]
  test = two_sample_test(arrays["tokens"], arrays["other"], kernels, 1000, seed=0)
  assert result["p_value"] == test.p_value
  assert [row["p_value"] for row in result["kernels"]] == list(test.p_values)
  assert [row["kernel"] for row in result["kernels"]] == ["hamming", "linear"]

  command.main([f"{folder}/features.npy", f"{folder}/features.npy", "--kernel=rbf,polynomial"])
  table = capsys.readouterr().out
  assert "rbf" in table and "jointly" in table and "40 against 40" in table

  args = ["--permutations=0", "--estimator=biased", "--json"]
  command.main([f"{folder}/tokens.npy", f"{folder}/tokens.npy", *args])
  result = json.loads(capsys.readouterr().out)
  assert result["p_value"] is None and abs(result["kernels"][0]["mmd2"]) < 1e-6
  assert result["kernels"][0]["p_value"] is None

  command.main(
    [f"{folder}/tokens.npy", f"{folder}/other.npy", "--kernel=ngram", "--permutations=9"]
  )
  title, row, sizes = capsys.readouterr().out.splitlines()
  kind, value, error, p = row.split()
  expected = mmd2(arrays["tokens"], arrays["other"], NGram())
  assert kind == "ngram" and p == "0.1000" and title.split()[-1] == "p-value"
  assert float(value) == pytest.approx(expected.value, rel=1e-3)
  assert float(error) == pytest.approx(expected.stderr, rel=0.05)
  assert sizes == "60 against 50 samples, unbiased"

  args = ["--permutations=9", "--estimator=biased", "--seed=3"]
  command.main([f"{folder}/tokens.npy", f"{folder}/other.npy", *args])
  value = capsys.readouterr().out.splitlines()[1].split()[1]
  biased = mmd2(arrays["tokens"], arrays["other"], estimator="biased").value
  assert float(value) == pytest.approx(biased, rel=1e-3)


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["tokens.npy", "absent.npy"], "absent.npy"),
    (["tokens.npy", "broken.npy"], "broken.npy"),
    (["tokens.npy", "several.npz"], "several arrays"),
    (["tokens.npy", "image.npy"], "shapes"),
    (["tokens.npy", "features.npy"], "integer tokens"),
    (["tokens.npy", "flat.npy"], "shape"),
    (["tokens.npy", "text.npy", "--kernel=rbf"], "dtype"),
    (["tokens.npy", "other.npy", "--kernel=laplace"], "laplace"),
    (["tokens.npy", "other.npy", "--permutations=-1"], "num_permutations"),
    (["tokens.npy"], "second"),
  ],
)
def test_what_it_cannot_use_ends_in_one_line(files, capsys, args, message):
  folder, _ = files
  with pytest.raises(SystemExit) as stopped:
    command.main([arg if arg.startswith("--") else f"{folder}/{arg}" for arg in args])
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error


def test_runs_as_a_module(files):
  folder, _ = files
  done = subprocess.run(
    [sys.executable, "-m", "dmmd_jax.mmd", f"{folder}/tokens.npy", f"{folder}/other.npy"],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0 and "hamming" in done.stdout, done.stderr
