"""Power of the permutation test on pairs of coins, against how strongly they are correlated.

`python -m benchmarks.power` (a minute) writes `docs/power.png`: the Hamming kernel compares joint
laws; the linear one sees the tokens one by one, and these are alike whatever the correlation.
"""

import pathlib

import matplotlib
import numpy as np

from dmmd_jax.mmd import two_sample_test
from dmmd_jax.mmd.kernels import Hamming, Linear

matplotlib.use("Agg")
from matplotlib import pyplot as plt

KERNELS = {"hamming": Hamming(num_categories=2), "linear": Linear(num_categories=2)}
CORRELATIONS = np.linspace(0.0, 1.0, 11)
REPETITIONS, SAMPLES, LEVEL = 100, 50, 0.05


def coins(rng: np.random.Generator, correlation: float) -> np.ndarray:
  first = rng.integers(0, 2, SAMPLES)
  other = rng.integers(0, 2, SAMPLES)
  return np.stack([first, np.where(rng.random(SAMPLES) < correlation, first, other)], 1)


def main() -> None:
  rng = np.random.default_rng(0)
  figure, axis = plt.subplots(figsize=(5, 3.4))
  for name, kernel in KERNELS.items():
    power = []
    for correlation in CORRELATIONS:
      p_values = [
        two_sample_test(coins(rng, correlation), coins(rng, 0.0), kernel, 199, seed).p_value
        for seed in range(REPETITIONS)
      ]
      power.append(np.mean(np.array(p_values) <= LEVEL))
    axis.plot(CORRELATIONS, power, marker="o", label=f"{name} kernel")
    print(name, " ".join(f"{p:.2f}" for p in power))
  axis.axhline(LEVEL, color="gray", linestyle=":", label="level of the test")
  axis.set_xlabel("correlation of the two coins")
  axis.set_ylabel("share of tests that reject")
  axis.set_title(f"{SAMPLES} pairs against {SAMPLES} independent ones", fontsize=10)
  axis.legend(fontsize=8)
  figure.tight_layout()
  figure.savefig(pathlib.Path(__file__).parent.parent / "docs" / "power.png", dpi=110)


if __name__ == "__main__":
  main()
