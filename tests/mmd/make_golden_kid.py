"""Writes `golden_kid.json` with torchmetrics; run by `make peers`, never by the tests."""

import json
import pathlib

import numpy as np
import torch
import torchmetrics
from torchmetrics.image.kid import poly_mmd

SEED, SHAPE = 0, (200, 64)


def main() -> None:
  rng = np.random.default_rng(SEED)
  x, y = (rng.normal(shift, 1.0, SHAPE).astype(np.float32) for shift in (0.0, 0.2))
  kid = poly_mmd(torch.from_numpy(x).double(), torch.from_numpy(y).double())
  golden = {
    "kid": float(kid),
    "seed": SEED,
    "shape": SHAPE,
    "torch": torch.__version__,
    "torchmetrics": torchmetrics.__version__,
  }
  path = pathlib.Path(__file__).parent / "golden_kid.json"
  path.write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
  main()
