"""Writes `golden_inception.npz`: pytorch-fid's features, torchmetrics' distance, torch's files.

Needs pytorch-fid and torchmetrics: `python -m tests.networks.make_golden_inception`.
"""

import collections
import io
import pathlib
import zlib

import numpy as np

PATH = pathlib.Path(__file__).parent / "golden_inception.npz"
IMAGES, LARGE = (2, 32, 32, 3), (1, 400, 350, 3)
# Of a resized image, every so many rows and columns are kept.
STEP = 13
FEATURES = (100, 8)


def images(shape: tuple[int, ...]) -> np.ndarray:
  """Random images float32 in [0, 1], not grey on average as noise would be."""
  return np.random.default_rng(0).uniform(size=shape).astype(np.float32) ** 2


def feature_sets() -> tuple[np.ndarray, np.ndarray]:
  """Two sets of random features `FEATURES`, of other means and covariances."""
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(2, *FEATURES))
  return x @ rng.normal(size=(FEATURES[1], FEATURES[1])), y + 0.5


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
  """Weights float32 that follow from their name in the weights file: 24M would not fit in git."""
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith("conv.weight"):  # He: activations stay of order 1
    return rng.normal(size=shape, scale=np.sqrt(2 / np.prod(shape[1:]))).astype(np.float32)
  if name.endswith(("bn.weight", "running_var")):
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)
  return rng.normal(size=shape, scale=0.1).astype(np.float32)


def small_state_dict() -> dict[str, np.ndarray]:
  """What the small files hold: a transposed view, a scalar, an empty one, and other numbers."""
  return {
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "scalar": np.array(3),
    "empty": np.zeros((0, 2)),
    "half": np.array([0.5, -2], np.float16),
    "flags": np.array([True, False]),
    "row": np.arange(3, 6, dtype=np.float32),  # a view of what `transposed` views
    "parameter": np.ones(2, np.float32),
  }


def main() -> None:
  import pytorch_fid
  import torch
  import torchmetrics
  from pytorch_fid import inception
  from torchmetrics.image.fid import _compute_fid

  names = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None).state_dict()
  weights = {name: torch.from_numpy(random_tensor(name, x.shape)) for name, x in names.items()}
  inception.load_state_dict_from_url = lambda *_, **__: weights  # it would download them
  network = inception.InceptionV3().eval()
  channels_first = torch.from_numpy(images(IMAGES)).permute(0, 3, 1, 2)
  large = torch.from_numpy(images(LARGE)).permute(0, 3, 1, 2)
  resized = torch.nn.functional.interpolate(large, (299, 299), mode="bilinear", align_corners=False)
  with torch.no_grad():
    features = network(channels_first)[0][..., 0, 0].numpy()

  sets = [torch.from_numpy(x) for x in feature_sets()]
  moments = [statistic for x in sets for statistic in (x.mean(0), torch.cov(x.T))]

  state = {name: torch.tensor(x) for name, x in small_state_dict().items()}
  storage = torch.arange(6, dtype=torch.float32)
  state |= {"transposed": storage.view(2, 3).T, "row": storage[3:]}
  state["parameter"] = torch.nn.Parameter(state["parameter"])
  state = collections.OrderedDict(state)
  state._metadata = collections.OrderedDict({"": {"version": 1}})  # as that of a module has
  files = {}
  for name, is_zip in {"zip_file": True, "legacy_file": False}.items():
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=is_zip)
    files[name] = np.frombuffer(file.getvalue(), np.uint8)

  np.savez_compressed(
    PATH,
    features=features,
    resized=resized.permute(0, 2, 3, 1)[:, ::STEP, ::STEP].numpy(),
    frechet=_compute_fid(*moments).item(),
    versions=[f"{m.__name__} {m.__version__}" for m in (torch, torchmetrics, pytorch_fid)],
    **files,
  )
  print(f"{PATH}: {PATH.stat().st_size} bytes; features {features.mean():.3f} {features.std():.3f}")


if __name__ == "__main__":
  main()
