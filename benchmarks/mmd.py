"""Speed of the unbiased Hamming MMD^2 beside scikit-learn and torch, and its memory at scale.

`python -m benchmarks.mmd` times 5,000 against 5,000 sequences of 64 tokens, all contestants in
turns in one process. `--memory` measures the peak of 50,000 against 50,000. torch (`make peers`)
is left out where it is not installed.
"""

import argparse
import json
import os
import pathlib
import platform
import resource
import time

import numpy as np

from benchmarks import tables
from dmmd_jax.versions import made_by

NUM_TOKENS, NUM_CATEGORIES, C = 64, 17, 0.9


def samples(size: int) -> tuple[np.ndarray, np.ndarray]:
  rng = np.random.default_rng(0)
  x = rng.integers(0, NUM_CATEGORIES, (size, NUM_TOKENS))
  y = np.where(rng.random(x.shape) < 0.1, 0, rng.integers(0, NUM_CATEGORIES, x.shape))
  return x.astype(np.int32), y.astype(np.int32)


def ours(x: np.ndarray, y: np.ndarray) -> float:
  from dmmd_jax.mmd import mmd2
  from dmmd_jax.mmd.kernels import Hamming

  return mmd2(x, y, Hamming(C, num_categories=NUM_CATEGORIES)).value


def scikit_learn(x: np.ndarray, y: np.ndarray) -> float:
  from sklearn.metrics import pairwise_distances

  def mean(a, b, same):
    gram = C ** (NUM_TOKENS * pairwise_distances(a, b, metric="hamming"))
    return (gram.sum() - len(a)) / (len(a) * (len(a) - 1)) if same else gram.mean()

  return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def torch_matmul(x: np.ndarray, y: np.ndarray) -> float:
  import torch

  def one_hot(a):
    codes = torch.nn.functional.one_hot(torch.from_numpy(a).long(), NUM_CATEGORIES)
    return codes.reshape(len(a), -1).float()

  def mean(a, b, same):
    gram = torch.exp(float(np.log(C)) * (NUM_TOKENS - a @ b.T))
    if same:
      return (gram.sum(dtype=torch.float64) - len(a)) / (len(a) * (len(a) - 1))
    return gram.mean(dtype=torch.float64)

  with torch.no_grad():
    x, y = one_hot(x), one_hot(y)
    return float(mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False))


def contestants() -> dict:
  found = {"dmmd_jax": ours, "scikit-learn": scikit_learn}
  try:
    import torch  # noqa: F401 (is it there?)

    found["torch"] = torch_matmul
  except ImportError:
    print("torch is not installed (make peers): left out")
  return found


def speed(size: int, rounds: int, out: pathlib.Path | None = None) -> None:
  x, y = samples(size)
  methods = contestants()
  seconds = {name: [] for name in methods}
  for method in methods.values():
    method(x[:100], y[:100])  # imports
  values = {name: method(x, y) for name, method in methods.items()}  # and compilation
  for _ in range(rounds):
    for name, method in methods.items():
      start = time.perf_counter()
      method(x, y)
      seconds[name].append(time.perf_counter() - start)
  best = {name: float(np.median(times)) for name, times in seconds.items()}
  cells = [
    {"model": name, "metric": metric, "nfe": size, "value": value, "stderr": None}
    for name in methods
    for metric, value in (
      ("seconds", best[name]),
      ("times ours", best[name] / best["dmmd_jax"]),
      ("MMD² × 10⁴", 1e4 * values[name]),
    )
  ]
  found = {
    "caption": f"Median of {rounds} rounds, all in turns in one process, {os.cpu_count()} cores.",
    "command": "python -m benchmarks.mmd",
    "made_by": made_by(platform.machine()),
    "rows": cells,
  }
  print(f"\n{tables.render(found, nfe=str(size))}\n\n{tables.caption(found)}")
  if out:
    out.write_text(json.dumps(found, indent=1) + "\n")


def memory(size: int) -> None:
  x, y = samples(size)
  ours(x[:2000], y[:2000])
  start = time.perf_counter()
  value = ours(x, y)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
  seconds = time.perf_counter() - start
  print(f"{size} against {size}: MMD² {value:.3e}, {seconds:.0f} s, peak {peak:.2f} GiB")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--size", type=int, default=5000)
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--memory", action="store_true", help="peak memory of 50,000 against 50,000")
  parser.add_argument("--out", type=pathlib.Path, help="a file for the documentation's table")
  args = parser.parse_args()
  memory(50_000) if args.memory else speed(args.size, args.rounds, args.out)


if __name__ == "__main__":
  main()
