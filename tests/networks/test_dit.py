"""The DiT against what its authors' modules say, kept in `golden_dit/`.

`make_golden_dit.py` made them; the files are as on the Hugging Face hub, so that reading them is
tested, too.
"""

import dataclasses
import functools
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax import parallel
from dmmd_jax.diffusion import losses
from dmmd_jax.diffusion.processes import Masked, Uniform
from dmmd_jax.networks.dit import DiT
from dmmd_jax.teachers import convert
from dmmd_jax.teachers.kinds import KINDS, recognise
from dmmd_jax.teachers.tensors import open_source

FOLDER = pathlib.Path(__file__).parent / "golden_dit"
VOCAB = 30


@functools.cache
def teacher(kind):
  """The module, its parameters and what its authors' says."""
  source = open_source(FOLDER / kind)
  assert recognise(kind, source) == kind
  sizes = KINDS[kind].sizes(source, kind)
  config = convert.make_config(kind, sizes, {"dataset.length": 8, "preset": "smoke"})
  params = convert.load(config, KINDS[kind], source, kind, parallel.make_mesh())
  with np.load(FOLDER / kind / "golden.npz") as golden:
    return convert.make_denoiser(config).module, params, dict(golden)


def with_length(module, length):
  return DiT(dataclasses.replace(module.config, shape=(length,)))


@functools.cache
def logits(kind, length):
  """Ours of the golden tokens, at the times whose alpha is theirs."""
  module, params, golden = teacher(kind)
  tokens, t = golden[f"tokens_{length}"], 1 - golden[f"alpha_{length}"]
  z, context = (tokens[:, :8], tokens[:, 8:]) if kind == "bd3lm" else (tokens, None)
  if kind != "duo":  # their mask is a token, ours a state
    z = np.where(z == VOCAB - 1, VOCAB, z)
  apply = jax.jit(with_length(module, z.shape[1]).apply)
  return apply({"params": params}, z, t, context=context), z, t


@pytest.mark.parametrize(("kind", "length"), [("mdlm", 8), ("mdlm", 5), ("duo", 5), ("bd3lm", 16)])
def test_logits_are_those_of_the_authors(kind, length):
  ours, _, _ = logits(kind, length)
  theirs = teacher(kind)[2][f"out_{length}"]
  np.testing.assert_allclose(ours[..., : VOCAB - 1], theirs[..., : VOCAB - 1], atol=1e-4)
  if kind != "duo":
    assert (ours[..., VOCAB - 1] < -1e8).all()  # a clean token is never the mask


def test_log_scores_of_sedd_are_those_of_the_denoiser():
  """At a mask `s(y) = p(y) / expm1(sigma)`, but for a scale of theirs that does not sum to one."""
  ours, z, t = logits("sedd", 8)
  theirs = teacher("sedd")[2]["out_8"]
  log_score = ours - jnp.log(jnp.expm1(-jnp.log1p(-t)))[:, None, None] - np.log(VOCAB - 1)
  masked = z == VOCAB
  np.testing.assert_allclose(
    log_score[masked][:, :-1], theirs[masked][:, :-1], atol=1e-4, rtol=1e-5
  )
  p = jax.nn.log_softmax(ours[masked])[:, :-1]
  np.testing.assert_allclose(p, jax.nn.log_softmax(theirs[masked][:, :-1]), atol=1e-4)


def test_blocks_from_the_cache_are_those_of_one_pass():
  module, params, golden = teacher("bd3lm")
  expected, z, t = logits("bd3lm", 16)
  context = golden["tokens_16"][:, 8:]
  features = jax.jit(functools.partial(module.apply, method="features"))
  cache, found = module.config.empty_cache(len(z)), []
  for start in (0, 4):
    block = np.s_[:, start : start + 4]
    found.append(features({"params": params}, z[block], t, cache=cache, start=start)[0])
    _, cache = features({"params": params}, context[block], t, cache=cache, start=start)
  found = module.apply({"params": params}, jnp.concatenate(found, 1), method="head")
  np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_student_starts_as_its_teacher_and_uses_its_noise_when_it_has_learnt_to():
  module, params, _ = teacher("mdlm")
  expected, z, t = logits("mdlm", 8)
  student = DiT(dataclasses.replace(module.config, noise_channels=3))
  noise = np.random.default_rng(0).normal(size=(*z.shape, 3)).astype(np.float32)
  init = lambda key: nn.unbox(student.init(key, z, t, noise))["params"]
  assert set(jax.eval_shape(init, jax.random.key(0))) - set(params) == {"noise"}
  fresh = jax.jit(lambda key: init(key)["noise"])(jax.random.key(0))  # the rest takes long
  apply = jax.jit(student.apply)
  start = apply({"params": {**params, "noise": fresh}}, z, t, noise)
  np.testing.assert_allclose(start, expected, rtol=1e-6)
  learnt = jax.tree.map(lambda x: jnp.arange(x.size).reshape(x.shape) % 5.0, fresh)
  moved = apply({"params": {**params, "noise": learnt}}, z, t, noise) - expected
  assert jnp.abs(moved[..., :-1]).max() > 1e-3


@pytest.mark.parametrize("kind", ["mdlm", "sedd", "duo"])
def test_bounds_are_those_of_the_authors(kind):
  """Per token at a time; theirs goes to alpha = 1e-3 in place of 0, so much more slowly.

  SEDD's has besides what its scores, which need not sum to one, miss: ours is never larger.
  """
  golden = teacher(kind)[2]
  tokens, clean, out = (golden[f"{name}_8"] for name in ("tokens", "clean", "out"))
  t, masked = 1 - golden["alpha_8"], tokens == VOCAB - 1
  if kind == "duo":
    process, z, log_x = Uniform(VOCAB), tokens, jax.nn.log_softmax(out)
  else:
    process, z = Masked(VOCAB - 1), tokens
    log_x = jax.nn.log_softmax(out[..., :-1])
  target = jax.nn.one_hot(clean, process.num_categories)
  ours = 0.999 * losses.bound(process, target, log_x, z, t)
  if kind != "duo":
    np.testing.assert_array_equal(ours[~masked], 0.0)
  if kind == "sedd":
    total = np.exp(out[..., :-1]).sum(-1) * np.expm1(-np.log1p(-t))[:, None]
    excess = total - 1 - np.log(total)
    ours += 0.999 * jnp.where(masked, excess / t[:, None], 0.0)
  theirs = np.where(masked, golden["nll_8"], 0.0) if kind == "mdlm" else golden["nll_8"]
  # Of Duo's formula in float32 small differences are left of large numbers.
  np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=1e-4)
