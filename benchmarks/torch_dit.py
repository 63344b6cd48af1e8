"""The demo's network beside the same one in PyTorch, in one process by turns.

`python -m benchmarks.torch_dit` (after `make peers`) checks that both say the same of the same
parameters, and times the forward pass, the gradient, and a whole step of a teacher: corruption,
gradient, clipping, AdamW, average. PyTorch runs as it is, and, where it finds a C++ compiler, by
`torch.compile`. It moves its parameters in place; our step makes a new state, and does not have the
memory of the old one, as it has in the training loop.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from benchmarks import tables
from configs import digits_dmmd
from dmmd_jax import optimization
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.networks import blocks
from dmmd_jax.phases import build, teacher
from dmmd_jax.positions import whole
from dmmd_jax.versions import made_by

try:
  import torch
  import torch.nn.functional as F  # noqa: N812 (as all who use it call it)
except ImportError:
  torch = None

PARTS = ("forward", "gradient", "step")


class Sizes(NamedTuple):
  heads: int
  depth: int
  patch: int
  grid: tuple[int, int]
  num_categories: int


class TorchNetwork:
  """`networks/transformer.py` for images of one channel, on parameters by their paths in flax."""

  def __init__(self, params: dict[str, np.ndarray], sizes: Sizes, width: int):
    self.params = {k: torch.tensor(np.asarray(v), requires_grad=True) for k, v in params.items()}
    self.sizes = sizes
    angles = blocks.rotary_angles(sizes.grid, width // sizes.heads, jnp.float32)
    self.cos, self.sin = (torch.tensor(np.asarray(a)).T for a in angles)
    # A last digit of these is seen in the sine of a thousand radians.
    frequencies = jnp.exp(jnp.linspace(0.0, jnp.log(1000.0), width // 2))
    self.frequencies = torch.tensor(np.asarray(frequencies))

  def log_probs(self, z: "torch.Tensor", t: "torch.Tensor") -> "torch.Tensor":
    """Log-probabilities `[B, H * W, K]` of tokens int64 `[B, H, W]` at times `[B]`."""
    s, p = self.sizes, self.params
    h = self._fold(p["tokens"][z])
    h = self._affine("embed", h)
    angles = t[:, None] * self.frequencies
    time = F.silu(self._affine("time_in", torch.cat([angles.sin(), angles.cos()], -1)))
    time = F.silu(self._affine("time_out", time))
    layers = [(k, v) for k, v in p.items() if k.startswith("layers/")]
    for i in range(s.depth):
      h = self._block(h, time, {k.removeprefix("layers/"): v[i] for k, v in layers})
    shift, scale = self._affine("out_norm", time)[:, None].chunk(2, -1)
    logits = self._affine("logits", _modulate(h, shift, scale))
    return F.log_softmax(self._unfold(logits), -1)

  def _block(self, h, time, p):
    s, (b, length, width) = self.sizes, h.shape
    mod = F.linear(time, p["modulation/kernel"].T, p["modulation/bias"])[:, None]
    shift1, scale1, gate1, shift2, scale2, gate2 = mod.chunk(6, -1)
    mixed = F.linear(_modulate(h, shift1, scale1), p["qkv/kernel"].T)
    q, k, v = mixed.view(b, length, s.heads, 3, -1).permute(3, 0, 2, 1, 4)
    bias = p["qkv/bias"].view(s.heads, 2, 1, -1)
    q, k = (
      self._rotate(F.rms_norm(x + bias[:, i], x.shape[-1:], p[f"{name}/scale"], 1e-6))
      for i, (x, name) in enumerate(((q, "q_norm"), (k, "k_norm")))
    )
    attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, length, width)
    h = h + gate1 * F.linear(attended, p["attended/kernel"].T, p["attended/bias"])
    hidden = F.linear(_modulate(h, shift2, scale2), p["mlp_in/kernel"].T, p["mlp_in/bias"])
    hidden = F.gelu(hidden, approximate="tanh")
    return h + gate2 * F.linear(hidden, p["mlp_out/kernel"].T, p["mlp_out/bias"])

  def _affine(self, name, h):
    return F.linear(h, self.params[f"{name}/kernel"].T, self.params[f"{name}/bias"])

  def _rotate(self, x):
    a, b = x.chunk(2, -1)
    return torch.cat([a * self.cos - b * self.sin, a * self.sin + b * self.cos], -1)

  def _fold(self, h):
    n, (rows, columns), b, f = self.sizes.patch, self.sizes.grid, len(h), h.shape[-1]
    h = h.view(b, rows, n, columns, n, f).transpose(2, 3)
    return h.reshape(b, rows * columns, n * n * f)

  def _unfold(self, h):
    n, (rows, columns), b = self.sizes.patch, self.sizes.grid, len(h)
    h = h.view(b, rows, columns, n, n, self.sizes.num_categories).transpose(2, 3)
    return h.reshape(b, rows * n * columns * n, -1)


def _modulate(h, shift, scale):
  return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1.0 + scale) + shift


def ours(config, dataset, params, x, t) -> dict:
  """Compiled functions without arguments, by part."""
  denoiser = build.make_denoiser(config, dataset)
  optimizer = optimization.make_optimizer(config.teacher.optimizer, 1000)
  key = jax.random.key(0)
  z = denoiser.process.corrupt(key, x, t)

  def loss(params):
    log_p = whole(denoiser.log_probs(params, z, t))
    nats = -jnp.take_along_axis(log_p, x[..., None], -1)[..., 0]
    return jnp.mean(denoiser.process.active(z) * nats / t[:, None, None, None])

  forward = jax.jit(lambda params: whole(denoiser.log_probs(params, z, t)))
  gradient = jax.jit(jax.grad(loss))
  step = jax.jit(teacher.make_step(config, denoiser, optimizer))
  state = teacher.initial_state(params, optimizer)
  return {
    "z": np.asarray(z),
    "forward": lambda: jax.block_until_ready(forward(params)),
    "gradient": lambda: jax.block_until_ready(gradient(params)),
    "step": lambda: jax.block_until_ready(step(state, Batch(x), key)),
  }


def theirs(network: TorchNetwork, config, x, z, t, compiled: bool) -> dict:
  """The same in PyTorch; its step moves the parameters, as PyTorch does."""
  x, z, t = (torch.tensor(np.array(a)) for a in (x, z, t))
  x, z = x[..., 0].long(), z[..., 0].long()
  names = sorted(network.params)
  params = [network.params[name] for name in names]
  averages = [p.detach().clone() for p in params]
  c, mask = config.teacher.optimizer, network.sizes.num_categories
  optimizer = torch.optim.AdamW(
    params, lr=1e-9, betas=(c.b1, c.b2), weight_decay=c.weight_decay, fused=True
  )
  log_probs = torch.compile(network.log_probs) if compiled else network.log_probs

  def loss(z, t):
    nats = F.nll_loss(log_probs(z, t).flatten(0, 1), x.flatten(), reduction="none")
    return ((z == mask).flatten() * nats / t.repeat_interleave(x[0].numel())).mean()

  def forward():
    with torch.no_grad():
      return log_probs(z, t)

  def gradient():
    return dict(zip(names, torch.autograd.grad(loss(z, t), params), strict=True))

  def step():
    t = (torch.arange(len(x)) + torch.rand(())) / len(x)
    z = torch.where(torch.rand(x.shape) < t[:, None, None], mask, x)
    optimizer.zero_grad()
    loss(z, t.clamp_min(1e-4)).backward()
    torch.nn.utils.clip_grad_norm_(params, c.clip_norm)
    optimizer.step()
    with torch.no_grad():
      torch._foreach_lerp_(averages, params, 1.0 - config.teacher.ema)

  return {"forward": forward, "gradient": gradient, "step": step}


def contestants(config) -> dict:
  """What is timed, by name and part, once both have said the same of the same parameters."""
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  rng, size = np.random.default_rng(0), config.teacher.batch_size
  shapes = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  params = jax.tree.map(lambda a: jnp.asarray(rng.normal(0, 0.1, a.shape), a.dtype), shapes)
  x = jnp.asarray(dataset.train[:size], jnp.int32)
  t = jnp.linspace(0.1, 1.0, size)
  n, network = config.network.patch, config.network
  grid = dataset.shape[0] // n, dataset.shape[1] // n
  sizes = Sizes(network.heads, network.depth, n, grid, dataset.num_categories)
  found = {"dmmd_jax": ours(config, dataset, params, x, t)}
  flat = flatten_dict(params, sep="/")
  for name, compiled in (("PyTorch", False), ("torch.compile", True)):
    model = TorchNetwork(flat, sizes, network.width)
    entry = theirs(model, config, x, found["dmmd_jax"]["z"], t, compiled)
    try:
      check(found["dmmd_jax"], entry)
    except torch._dynamo.exc.BackendCompilerFailed as error:
      print(f"{name}: left out, {str(error).splitlines()[0]}")
      continue
    found[name] = entry
  return found


def check(one: dict, two: dict) -> None:
  """Raises `AssertionError` where log-probabilities at masked tokens, or gradients, differ."""
  ours, theirs = np.asarray(one["forward"]()), two["forward"]().numpy()
  masked = one["z"].reshape(len(ours), -1) == theirs.shape[-1]
  np.testing.assert_allclose(ours.reshape(theirs.shape)[masked], theirs[masked], atol=1e-4)
  gradients = two["gradient"]()
  for name, value in flatten_dict(one["gradient"](), sep="/").items():
    np.testing.assert_allclose(value, gradients[name], rtol=1e-2, atol=1e-4, err_msg=name)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--rounds", type=int, default=20)
  parser.add_argument("--out", type=pathlib.Path, help="a file for the documentation's table")
  args = parser.parse_args()
  if torch is None:
    parser.error("torch is not installed: run make peers")
  torch.set_num_threads(os.cpu_count())
  config = digits_dmmd.get_config()
  found, size = contestants(config), config.teacher.batch_size
  seconds = {(name, part): [] for name in found for part in PARTS}
  for _ in range(args.rounds):
    for part in PARTS:
      for name, entry in found.items():
        start = time.perf_counter()
        for _ in range(5):
          entry[part]()
        seconds[name, part].append((time.perf_counter() - start) / 5)
  # The first round has compilation.
  median = {key: float(np.median(times[1:])) for key, times in seconds.items()}
  rows = [
    {"model": name, "metric": f"{part}, ms", "nfe": size, "value": 1e3 * value, "stderr": None}
    for (name, part), value in median.items()
  ]
  rows += [
    {"model": name, "metric": "step, times ours", "nfe": size,
     "value": median[name, "step"] / median["dmmd_jax", "step"], "stderr": None}
    for name in found
  ]  # fmt: skip
  results = {
    "caption": (
      f"A batch of {size}; median of {args.rounds - 1} rounds, all in turns in one process,"
      f" {os.cpu_count()} cores, PyTorch {torch.__version__}."
    ),
    "command": "python -m benchmarks.torch_dit",
    "made_by": made_by(platform.machine()),
    "rows": rows,
  }
  print(f"{tables.render(results, nfe=str(size))}\n\n{tables.caption(results)}")
  if args.out:
    args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
  main()
