"""Attention, by a kernel that keeps its scores in fast memory where there is one for the device."""

import functools
import math
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax import parallel

# Queries and keys that a TPU's kernel works on at a time, and what their numbers must be multiples
# of.
_BLOCK, _BACKWARD_BLOCK, _TILE = 512, 1024, 128
# Keys from which on it pays: by the TPU compiler's account, not at 256 (cifar_dmmd), but at 1,024.
_FEWEST_KEYS = 512
# What GPUs call themselves that have its attention: Ampere and later, as A100, RTX A6000, RTX 3090.
_AMPERE = r"NVIDIA ((A|H|L|B|GH|GB)\d|RTX|GeForce RTX [3-9])"
# What numbers of queries and keys must be multiples of for cuDNN.
_CUDNN_TILE = 64


def attend(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: np.ndarray | jax.Array | None = None
) -> jax.Array:
  """Softmax attention of queries `[B, heads, features, Q]` over keys and values `[B, ..., K]`.

  Returns `[B, Q, heads, features]`. `mask` bool `[Q, K]` says which keys a query sees; None stands
  for all. Within `parallel.use`, on a TPU, a mask that is known before the program runs (a numpy
  array, or None) goes to splash attention, for which blocks that nobody sees cost nothing; on a GPU
  of NVIDIA since Ampere 16-bit queries and keys go to cuDNN's, with any mask.
  """
  with jax.named_scope("attention"):
    if parallel.platform() == "tpu" and _suits_splash(q, k, mask):
      return _sharded_splash(q, k, v, mask)
    implementation = "cudnn" if _suits_cudnn(q, k) else None
    q, k, v = (x.transpose(0, 3, 1, 2) for x in (q, k, v))
    mask = None if mask is None else mask[None, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)


def _suits_cudnn(q: jax.Array, k: jax.Array) -> bool:
  """Whether cuDNN can take them, and is there."""
  lengths_fit = q.shape[3] % _CUDNN_TILE == k.shape[3] % _CUDNN_TILE == 0
  features_fit = q.shape[2] % 8 == 0 and q.shape[2] <= 128
  is_half = q.dtype in (jnp.bfloat16, jnp.float16)
  is_there = parallel.platform() == "gpu" and re.match(_AMPERE, parallel.device_kind())
  return bool(is_there) and is_half and lengths_fit and features_fit and _divides(q)


def _suits_splash(q: jax.Array, k: jax.Array, mask) -> bool:
  known = mask is None or isinstance(mask, np.ndarray)
  long = k.shape[3] >= _FEWEST_KEYS
  return known and _divides(q) and long and q.shape[3] % _TILE == 0 and k.shape[3] % _TILE == 0


def _divides(q: jax.Array) -> bool:
  """Whether the devices share examples and heads evenly."""
  sizes = jax.sharding.get_abstract_mesh().shape
  return all(
    length % math.prod(sizes[name] for name in _names(axis)) == 0
    for length, axis in zip(q.shape, _spec(), strict=True)
  )


def _spec() -> jax.sharding.PartitionSpec:
  return nn.logical_to_mesh_axes(("batch", "heads", None, None))


def _names(axis: str | tuple[str, ...] | None) -> tuple[str, ...]:
  return () if axis is None else (axis,) if isinstance(axis, str) else axis


def _sharded_splash(q: jax.Array, k: jax.Array, v: jax.Array, mask) -> jax.Array:
  """Each device attends for its own examples and heads."""
  spec = _spec()
  local = functools.partial(splash, mask=mask)
  attend = jax.shard_map(local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
  return attend(q, k, v).swapaxes(1, 2)


def splash(
  q: jax.Array, k: jax.Array, v: jax.Array, mask: np.ndarray | None, interpret: bool = False
) -> jax.Array:
  """`[B, heads, Q, features]`, by jax's splash attention; `interpret` runs it on a CPU."""
  # Imported late: it takes a second, and only TPUs need it.
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
  from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

  lengths = q.shape[3], k.shape[3]
  of_head = masks.FullMask(lengths) if mask is None else masks.NumpyMask(mask)
  queries, keys = (_block(length) for length in lengths)
  kernel = kernels.make_splash_mha(
    masks.MultiHeadMask([of_head] * q.shape[1]),
    block_sizes=kernels.BlockSizes(
      block_q=queries,
      block_kv=keys,
      block_q_dkv=queries,
      # Each block of keys leaves a part of the queries' gradient, which are added up outside.
      block_kv_dkv=_block(lengths[1], _BACKWARD_BLOCK),
      block_kv_dkv_compute=keys,
      use_fused_bwd_kernel=True,
      q_layout=kernels.QKVLayout.SEQ_MINOR,
      k_layout=kernels.QKVLayout.SEQ_MINOR,
      v_layout=kernels.QKVLayout.SEQ_MINOR,
    ),
    head_shards=1,
    q_seq_shards=1,
    interpret=interpret,
  )
  q = q * q.shape[2] ** -0.5
  return jax.vmap(kernel)(*(x.swapaxes(2, 3) for x in (q, k, v)))


def _block(length: int, largest: int = _BLOCK) -> int:
  """The largest multiple of a tile up to `largest` that divides a length."""
  return max(size for size in range(_TILE, largest + 1, _TILE) if length % size == 0)
