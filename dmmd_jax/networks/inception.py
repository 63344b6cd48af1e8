"""InceptionV3 of the FID literature, as pytorch-fid has it, with weights from its file.

The network of arXiv 1512.00567 as TensorFlow had it in 2015. It differs from others of the name:
average pools do not count padding, and the last one is a max pool.
"""

import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.networks.weights import WeightsError, check_finite, read_torch

_SIZE = 299
_EPSILON = 1e-3  # of the batch norms

_avg_pool = functools.partial(
  nn.avg_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME", count_include_pad=False
)
_max_pool = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(1, 1), padding="SAME")
_halve = functools.partial(nn.max_pool, window_shape=(3, 3), strides=(2, 2))


class _Conv(NamedTuple):
  """A stride of 1 keeps the size and one of 2 pads nothing, unless `padding` says otherwise."""

  width: int
  height: int = 1
  breadth: int = 1
  stride: int = 1
  padding: str | None = None


# Names are those of the weights file: of a layer, or of the branches of a block. A branch is a
# chain of layers, called `_1`, `_2`, ... where there are several; a layer of two, `a` and `b`,
# applies both and joins what they give. `branch_pool` starts with the block's pool.
_Branches = dict[str, tuple[_Conv | tuple[_Conv, _Conv], ...]]


class _Block(NamedTuple):
  pool: Callable[[jax.Array], jax.Array]
  branches: _Branches


def _block_35(pool_width: int) -> _Block:
  return _Block(
    _avg_pool,
    {
      "branch1x1": (_Conv(64),),
      "branch5x5": (_Conv(48), _Conv(64, 5, 5)),
      "branch3x3dbl": (_Conv(64), _Conv(96, 3, 3), _Conv(96, 3, 3)),
      "branch_pool": (_Conv(pool_width),),
    },
  )


def _block_17(w: int) -> _Block:
  flat, tall = _Conv(w, 1, 7), _Conv(w, 7, 1)
  return _Block(
    _avg_pool,
    {
      "branch1x1": (_Conv(192),),
      "branch7x7": (_Conv(w), flat, _Conv(192, 7, 1)),
      "branch7x7dbl": (_Conv(w), tall, flat, tall, _Conv(192, 1, 7)),
      "branch_pool": (_Conv(192),),
    },
  )


def _block_8(pool: Callable) -> _Block:
  both = (_Conv(384, 1, 3), _Conv(384, 3, 1))
  return _Block(
    pool,
    {
      "branch1x1": (_Conv(320),),
      "branch3x3": (_Conv(384), both),
      "branch3x3dbl": (_Conv(448), _Conv(384, 3, 3), both),
      "branch_pool": (_Conv(192),),
    },
  )


_LAYERS: dict[str, _Conv | _Block | Callable] = {
  "Conv2d_1a_3x3": _Conv(32, 3, 3, stride=2),
  "Conv2d_2a_3x3": _Conv(32, 3, 3, padding="VALID"),
  "Conv2d_2b_3x3": _Conv(64, 3, 3),
  "pool_1": _halve,
  "Conv2d_3b_1x1": _Conv(80),
  "Conv2d_4a_3x3": _Conv(192, 3, 3, padding="VALID"),
  "pool_2": _halve,
  "Mixed_5b": _block_35(32),
  "Mixed_5c": _block_35(64),
  "Mixed_5d": _block_35(64),
  "Mixed_6a": _Block(
    _halve,
    {
      "branch3x3": (_Conv(384, 3, 3, stride=2),),
      "branch3x3dbl": (_Conv(64), _Conv(96, 3, 3), _Conv(96, 3, 3, stride=2)),
      "branch_pool": (),
    },
  ),
  "Mixed_6b": _block_17(128),
  "Mixed_6c": _block_17(160),
  "Mixed_6d": _block_17(160),
  "Mixed_6e": _block_17(192),
  "Mixed_7a": _Block(
    _halve,
    {
      "branch3x3": (_Conv(192), _Conv(320, 3, 3, stride=2)),
      "branch7x7x3": (_Conv(192), _Conv(192, 1, 7), _Conv(192, 7, 1), _Conv(192, 3, 3, stride=2)),
      "branch_pool": (),
    },
  ),
  "Mixed_7b": _block_8(_avg_pool),
  "Mixed_7c": _block_8(_max_pool),
}


class Inception(nn.Module):
  """Features float32 `[B, 2048]` of images float32 `[B, H, W, 3]` in `[0, 1]`, of any size."""

  @nn.compact
  def __call__(self, images: jax.Array) -> jax.Array:
    h = 2 * resize(images) - 1
    for name, layer in _LAYERS.items():
      if isinstance(layer, _Conv):
        h = _convolve(layer, name, h)
      elif isinstance(layer, _Block):
        h = _branch_out(layer, name, h)
      else:
        h = layer(h)
    return h.mean((1, 2))


def resize(images: jax.Array) -> jax.Array:
  """Images `[B, 299, 299, C]` of images `[B, H, W, C]`, bilinear; larger ones are not smoothed."""
  shape = (len(images), _SIZE, _SIZE, images.shape[-1])
  return jax.image.resize(images, shape, "bilinear", antialias=False)


def _branch_out(block: _Block, block_name: str, x: jax.Array) -> jax.Array:
  ends = []
  for branch, chain in block.branches.items():
    h = block.pool(x) if branch == "branch_pool" else x
    for i, layer in enumerate(chain, start=1):
      name = f"{block_name}.{branch}" + (f"_{i}" if len(chain) > 1 else "")
      if isinstance(layer, _Conv):
        h = _convolve(layer, name, h)
      else:
        h = jnp.concatenate(
          [_convolve(conv, name + suffix, h) for conv, suffix in zip(layer, "ab", strict=True)], -1
        )
    ends.append(h)
  return jnp.concatenate(ends, -1)


def _convolve(conv: _Conv, name: str, x: jax.Array) -> jax.Array:
  padding = conv.padding or ("SAME" if conv.stride == 1 else "VALID")
  kernel = (conv.height, conv.breadth)
  # TPUs and new GPUs would round to fewer bits, and the distance to other people's would grow.
  precision = jax.lax.Precision.HIGHEST
  layer = nn.Conv(conv.width, kernel, conv.stride, padding, precision=precision, name=name)
  return nn.relu(layer(x))


def load(path: str | pathlib.Path) -> tuple[Inception, Any]:
  """The module and its parameters from the file `pt_inception-2015-12-05-6726825d.pth`.

  Batch norms are folded into the convolutions before them. Raises `WeightsError` where the file is
  missing or holds something else.
  """
  path = pathlib.Path(os.path.expanduser(path))
  if not path.is_file():
    raise WeightsError(
      f"no Inception at {path}; set evaluate.inception to pt_inception-2015-12-05-6726825d.pth of"
      " the release fid_weights of github.com/mseitzer/pytorch-fid"
    )
  tensors = read_torch(path)
  # 1008 classes tell it from torchvision's, of which every other shape is the same.
  if np.shape(tensors.get("fc.weight")) != (1008, 2048):
    raise WeightsError(f"{path} does not hold the Inception of FID: no fc.weight of 1008 classes")
  check_finite(path, tensors)
  module = Inception()
  image = jnp.zeros((1, _SIZE, _SIZE, 3))
  expected = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
  try:
    params = {name: _fold(tensors, name) for name in expected}
  except (KeyError, ValueError) as error:
    raise WeightsError(f"{path} does not hold the Inception of FID: no {error}") from error
  if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, expected):
    raise WeightsError(f"{path} does not hold the Inception of FID: tensors of other shapes")
  return module, params


def _fold(tensors: dict[str, np.ndarray], name: str) -> dict[str, jax.Array]:
  weight = tensors[name + ".conv.weight"]  # [out, in, height, breadth]
  norm = {
    key: tensors[f"{name}.bn.{key}"] for key in ("weight", "bias", "running_mean", "running_var")
  }
  scale = norm["weight"] / np.sqrt(norm["running_var"] + _EPSILON)
  return {
    "kernel": jnp.asarray(weight.transpose(2, 3, 1, 0) * scale, jnp.float32),
    "bias": jnp.asarray(norm["bias"] - norm["running_mean"] * scale, jnp.float32),
  }
