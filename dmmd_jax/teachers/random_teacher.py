"""A tiny teacher with random weights in the format of its kind, to try a config with."""

import pathlib

import flax.linen as nn
import jax
import numpy as np

from dmmd_jax.records import Source
from dmmd_jax.teachers import export
from dmmd_jax.teachers.convert import make_config, make_denoiser

_SCALE = 0.1


def write(kind: str, folder: pathlib.Path) -> None:
  """Writes safetensors and `config.json` with the sizes of the preset `smoke` of its config."""
  config = make_config(kind, {}, {"preset": "smoke"})
  abstract = nn.unbox(jax.eval_shape(make_denoiser(config).init, jax.random.key(0)))
  rng = np.random.default_rng(0)
  params = jax.tree_util.tree_map_with_path(
    lambda path, x: _random(rng, jax.tree_util.keystr(path), x.shape), abstract
  )
  identity = {"config": config.to_dict(), "inputs": {"origin": {"kind": kind, "files": {}}}}
  source = Source(None, identity | {"step": 0, "digest": "", "finished": True})
  export.write(folder, source, params, None)


def _random(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
  noise = _SCALE * rng.normal(size=shape).astype(np.float32)
  return 1 + noise if "scale" in name else noise
