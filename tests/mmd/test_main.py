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
    "edge": np.array([[0, 2**31 - 1]] * 2),
    "flat": np.arange(5),
    "huge": np.full((4, 8), 10**12),
    "large": np.arange(8).reshape(4, 2) + 2**31,
    "negative": np.full((4, 8), -1),
    "nan": np.full((4, 8), np.nan),
    "beyond": np.full((4, 8), 1e300),
    "far": np.arange(32.0).reshape(4, 8) * 1e18,
    "nothing": np.zeros((4, 0), int),
    "row": np.zeros((1, 8), int),
    "short": np.zeros((4, 3), int),
    "spans": np.zeros((4, 8), "m8[s]"),
  }
  for name, array in arrays.items():
    np.save(tmp_path / f"{name}.npy", array)
  (tmp_path / "broken.npy").write_bytes(b"not an array")
  np.savez(tmp_path / "several.npz", **{f"a {name}": array for name, array in arrays.items()})
  np.save(tmp_path / "objects.npy", np.array([None, {}]), allow_pickle=True)
  (tmp_path / "cut.npy").write_bytes((tmp_path / "tokens.npy").read_bytes()[:-100])
  (tmp_path / "folder.npy").mkdir()
  return tmp_path, arrays


def test_two_items_are_enough(tmp_path):
  np.save(tmp_path / "two.npy", np.eye(2, dtype=np.int32))
  np.testing.assert_array_equal(command.load_sample(tmp_path / "two.npy", ["hamming"]), np.eye(2))


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
    (["tokens.npy", "objects.npy"], "cannot read"),
    (["tokens.npy", "cut.npy"], "cannot read"),
    (["tokens.npy", "folder.npy"], "is not a file"),
    (["tokens.npy", "image.npy"], "shapes"),
    (["tokens.npy", "short.npy"], "shapes"),
    (["tokens.npy", "row.npy"], "at least 2 items"),
    (["tokens.npy", "nothing.npy"], "at least 2 items"),
    (["tokens.npy", "spans.npy"], "dtype"),
    (["tokens.npy", "negative.npy"], "token -1"),
    (["tokens.npy", "huge.npy"], "token 1000000000000;"),
    (["large.npy", "large.npy", "--kernel=ngram"], "token 2147483655;"),
    (["edge.npy", "edge.npy"], "token 2147483647;"),
    (["nan.npy", "features.npy", "--kernel=rbf"], "not finite"),
    (["beyond.npy", "features.npy", "--kernel=rbf"], "not finite"),
    (["far.npy", "far.npy", "--kernel=polynomial"], "leaves float32"),
    (["tokens.npy", "features.npy"], "integer tokens"),
    (["tokens.npy", "flat.npy"], "expected shape [n, ...]"),
    (["tokens.npy", "text.npy", "--kernel=rbf"], "dtype"),
    (["tokens.npy", "other.npy", "--kernel=laplace"], "laplace"),
    (["tokens.npy", "other.npy", "--kernel="], "no kernel ''"),
    (["tokens.npy", "other.npy", "--kernel=linear,linear"], "linear twice"),
    (["tokens.npy", "other.npy", "--permutations=-1"], "'-1'; expected a whole number from 0"),
    (["tokens.npy", "other.npy", "--permutations=1e3"], "'1e3'; expected a whole number"),
    (["tokens.npy", "other.npy", "--seed=-1"], "seed"),
    (["tokens.npy", "other.npy", "--seed=4294967296"], "seed"),
    (["tokens.npy"], "second"),
  ],
)
def test_what_it_cannot_use_ends_in_one_line(files, capsys, args, message):
  folder, _ = files
  with pytest.raises(SystemExit) as stopped:
    command.main([arg if arg.startswith("--") else f"{folder}/{arg}" for arg in args])
  error = capsys.readouterr().err
  assert stopped.value.code == 2 and message in error and error.count("\n") == 1, error
  assert "\\n" not in error and "\\'" not in error


def test_a_test_of_more_than_memory_holds_is_refused(files, capsys):
  folder, _ = files
  np.save(folder / "many.npy", np.zeros((5000, 2), np.int8))
  with pytest.raises(SystemExit):
    command.main([f"{folder}/many.npy", f"{folder}/many.npy", "--permutations=1000000"])
  assert "expected at most 429495" in capsys.readouterr().err


def test_tokens_of_a_large_vocabulary_take_no_more_memory(files, capsys, monkeypatch):
  folder, arrays = files
  monkeypatch.setenv("HOME", str(folder))
  # One-hot vectors of 60 items of 40 tokens out of 2^31 would take 20 TB.
  x, y = (np.resize(arrays[name], (30, 40)) for name in ("tokens", "other"))
  expected = mmd2(x, y)
  x[x == 4], y[y == 4] = 2**31 - 2, 2**31 - 2
  np.save(folder / "x.npy", x.astype(">i8"))
  np.save(folder / "y.npy", y.astype(np.uint64))
  command.main(["~/x.npy", "~/y.npy", "--permutations=0", "--json"])
  result = json.loads(capsys.readouterr().out)
  assert result["kernels"][0]["mmd2"] == pytest.approx(expected.value, rel=1e-4)


def test_runs_as_a_module(files):
  folder, _ = files
  done = subprocess.run(
    [sys.executable, "-m", "dmmd_jax.mmd", f"{folder}/tokens.npy", f"{folder}/other.npy"],
    capture_output=True, text=True, timeout=120,
  )  # fmt: skip
  assert done.returncode == 0 and "hamming" in done.stdout, done.stderr
