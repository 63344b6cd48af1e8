"""The closed forms against enumeration, gradients against differences, and what the optimum is."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes
from dmmd_jax.distillation.kernel_score import conditional_score, marginal_mmd2
from dmmd_jax.distillation.sequence_kernel import Kernel, Scale, kernel

K, D, B, M = 3, 4, 5, 3
MASKED = processes.Masked(K)
SCALES = (Scale(0, 1, (1.0, 3.0)), Scale(2, 1, (0.7,)))
EVERY = np.array(list(itertools.product(range(K), repeat=D)))
score_of = jax.jit(conditional_score, static_argnums=0)
mmd2_of = jax.jit(marginal_mmd2, static_argnums=(0, 4))
kernel_of = jax.jit(kernel, static_argnums=(0, 2))


def make_inputs(process, seed=0):
  rng = np.random.default_rng(seed)
  log_p = np.log(rng.dirichlet(np.ones(K), (M, B, D)))
  x = rng.integers(0, K, (B, D))
  z_t = np.where(rng.random((B, D)) < 0.6, process.num_states - 1, x)
  return log_p, x, z_t


def plain_kernel(x, y, scales, category_bandwidth=0.0):
  """The kernel of two token sequences, as its definition reads, in float64."""
  total = 0.0
  for window, stride, bandwidths in scales:
    width = window or len(x)
    starts = range(0, len(x) - width + 1, stride)
    for h in bandwidths:
      c = math.exp(-1.0 / h)
      values = []
      for start in starts:
        value = 1.0
        for a, b in zip(x[start : start + width], y[start : start + width], strict=True):
          same = (
            math.exp(-0.5 * ((a - b) / category_bandwidth) ** 2) if category_bandwidth else a == b
          )
          value *= c + (1 - c) * same
        values.append(value)
      total += sum(values) / len(values)
  return total


@functools.cache
def gram_of_every(category_bandwidth=0.0):
  return np.array([[plain_kernel(a, b, SCALES, category_bandwidth) for b in EVERY] for a in EVERY])


def law(log_p, z, process):
  """Probability of every sequence under the product `log_p` `[D, K]`, what is decided kept."""
  p = np.exp(log_p)
  decided = (z != K) & (process == MASKED)
  p = np.where(decided[:, None], np.eye(K + 1)[z][:, :K], p)
  return np.prod([p[d, EVERY[:, d]] for d in range(D)], 0)


def in_rows(log_p):
  """`[M, B, ...]` as `[B * M, ...]`, the noises of an example in a row."""
  return log_p.swapaxes(0, 1).reshape(-1, *log_p.shape[2:])


@pytest.mark.parametrize("category_bandwidth", [0.0, 1.5])
@pytest.mark.parametrize("process", [MASKED, processes.Uniform(K)], ids=["masked", "uniform"])
def test_scores_are_expectations_over_all_samples(process, category_bandwidth):
  log_p, x, z_t = make_inputs(process)
  method = Kernel(process, SCALES, category_bandwidth)
  gram = gram_of_every(category_bandwidth)
  laws = np.array([[law(log_p[m, b], z_t[b], process) for b in range(B)] for m in range(M)])
  index = [int(np.flatnonzero((row == EVERY).all(1))[0]) for row in x]

  expected = np.mean(
    [
      0.5 * laws[m, b] @ gram @ laws[m - 1, b] - laws[m, b] @ gram[index[b]]
      for m in range(M)
      for b in range(B)
    ]
  )
  found = score_of(method, in_rows(log_p), x, z_t)
  np.testing.assert_allclose(found, expected, rtol=1e-5)

  pairs = [(i, j) for i in range(B) for j in range(B) if i != j]
  expected = np.mean(
    [
      laws[0, i] @ gram @ laws[0, j] + gram[index[i], index[j]] - 2 * laws[0, i] @ gram[index[j]]
      for i, j in pairs
    ]
  )
  found = mmd2_of(method, log_p[0], x, z_t, 1)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("category_bandwidth", [0.0, 1.5])
@pytest.mark.parametrize("process", [MASKED, processes.Uniform(K)], ids=["masked", "uniform"])
def test_blank_examples_are_compared_with_the_data_of_all_of_them(process, category_bandwidth):
  log_p, x, z_t = make_inputs(process)
  blank = np.isin(np.arange(B), (1, 3))
  prior = np.full(x.shape, K) if process == MASKED else np.roll(x, 1)
  z_t = np.where(blank[:, None], prior, z_t)
  gram = gram_of_every(category_bandwidth)
  laws = np.array([[law(log_p[m, b], z_t[b], process) for b in range(B)] for m in range(M)])
  index = [int(np.flatnonzero((row == EVERY).all(1))[0]) for row in x]
  expected = np.mean(
    [
      0.5 * laws[m, b] @ gram @ laws[m - 1, b]
      - np.mean([laws[m, b] @ gram[index[c]] for c in ((1, 3) if blank[b] else (b,))])
      for m in range(M)
      for b in range(B)
    ]
  )
  method, log_p = Kernel(process, SCALES, category_bandwidth), in_rows(log_p)
  score = functools.partial(score_of, method, log_p, x, z_t)
  np.testing.assert_allclose(score(blank=blank), expected, rtol=1e-5)
  np.testing.assert_allclose(score(blank=np.zeros(B, bool)), score(), rtol=1e-6)


def test_image_windows_hold_all_channels():
  rng = np.random.default_rng(0)
  agreement = rng.random((2, 4, 6, 3))
  scales = (Scale(2, 2, (1.5,)), Scale(0, 1, (4.0,)))
  found = kernel_of(Kernel(MASKED, scales), agreement, 3)
  c, c_all = math.exp(-1 / 1.5), math.exp(-1 / 4)
  windows = [
    (c + (1 - c) * agreement[:, h : h + 2, w : w + 2]).prod((1, 2, 3))
    for h in (0, 2)
    for w in (0, 2, 4)
  ]
  expected = np.mean(windows, 0) + (c_all + (1 - c_all) * agreement).prod((1, 2, 3))
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("objective", ["conditional", "marginal"])
def test_gradients_are_those_of_finite_differences(objective):
  log_p, x, z_t = make_inputs(MASKED, seed=1)
  method = Kernel(MASKED, SCALES)

  def loss(logits):
    log_p = jax.nn.log_softmax(logits)
    if objective == "marginal":
      return marginal_mmd2(method, log_p[0], x, z_t)
    return conditional_score(method, in_rows(log_p), x, z_t)

  with jax.enable_x64(True):
    of_loss = jax.jit(jax.value_and_grad(loss))
    grads = np.asarray(of_loss(log_p)[1])
    assert grads.dtype == np.float64
    for index in [(0, 0, 0, 0), (0, 2, 1, 2), (0, 4, 3, 1)]:
      step = np.zeros_like(log_p)
      step[index] = 1e-5
      difference = (of_loss(log_p + step)[0] - of_loss(log_p - step)[0]) / 2e-5
      np.testing.assert_allclose(grads[index], difference, rtol=1e-4, atol=1e-9)
  decided = z_t != K
  assert decided.any() and np.abs(grads[:, decided]).max() == 0


def test_the_score_is_strictly_proper_on_a_grid_of_mixtures():
  """Data are two equally likely patterns; a student puts weight w on one, with sharpness r.

  Its noise is a choice of the pattern; expectations over it are taken exactly.
  """
  method = Kernel(processes.Masked(2), (Scale(0, 1, (1.0, 4.0)),))
  patterns, z_t = np.array([[0, 0, 1], [1, 1, 0]]), np.full((1, 3), 2)

  def score(weight, sharpness, twist):
    """`twist` moves one token of the second pattern only: a difference in the joint law."""
    p = jax.nn.one_hot(patterns, 2) * (2 * sharpness - 1) + 1 - sharpness
    p = p.at[1, 2].set(p[1, 2] * (1 - twist) + p[1, 2, ::-1] * twist)
    log_p, w = jnp.log(jnp.maximum(p, 1e-9)), jnp.stack([weight, 1 - weight])
    pairs = jnp.array(list(itertools.product(range(2), repeat=3)))

    def of_pair(i, j, data):
      value = conditional_score(
        method, log_p[jnp.stack([i, j])], jnp.asarray(patterns)[data][None], z_t
      )
      return w[i] * w[j] * 0.5 * value

    return jax.vmap(of_pair)(*pairs.T).sum()

  grid = list(itertools.product(np.linspace(0, 1, 11), np.linspace(0.5, 1, 6), (0.0, 0.1, 0.5)))
  scores = np.asarray(jax.jit(jax.vmap(score))(*np.array(grid).T))
  best = grid[int(scores.argmin())]
  np.testing.assert_allclose(best, (0.5, 1.0, 0.0), atol=1e-9)
  assert np.sort(scores)[1] - scores.min() > 1e-4


def test_marginal_pairs_are_of_different_examples():
  """Rows of one example, its blocks, depend on each other: their pairs are left out."""
  log_p, x, z_t = make_inputs(MASKED, seed=2)
  log_p, x, z_t = log_p[0][:4], x[:4], z_t[:4]
  laws = [law(p, z, MASKED) for p, z in zip(log_p, z_t, strict=True)]
  laws_data = [(row == EVERY).all(1).astype(float) for row in x]
  gram = gram_of_every()
  pairs = [(i, j) for i in range(4) for j in range(4) if i // 2 != j // 2]
  expected = np.mean(
    [
      laws[i] @ gram @ (laws[j] - 2 * laws_data[j]) + laws_data[i] @ gram @ laws_data[j]
      for i, j in pairs
    ]
  )
  found = mmd2_of(Kernel(MASKED, SCALES), log_p, x, z_t, 2)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bandwidth", [1e-3, 0.05, 0.06, 0.2, 1000.0])
def test_kernels_and_gradients_of_every_bandwidth(bandwidth):
  """Below 0.06 c is 0 in float32, and its logarithm was not a number in every other window."""
  rows = np.array([[0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5], [1.0, 1.0, 1.0, 1.0]])
  method = Kernel(MASKED, (Scale(2, 1, (bandwidth,)),))
  c = math.exp(-1.0 / bandwidth)
  tokens = c + (1 - c) * rows
  of_rows = jax.jit(jax.vmap(jax.value_and_grad(lambda a: kernel(method, a, 1))))
  values, grads = of_rows(rows)
  expected = (tokens[:, 1:] * tokens[:, :-1]).mean(1)
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
  by_hand = np.zeros_like(rows)
  by_hand[:, 1:] += tokens[:, :-1]
  by_hand[:, :-1] += tokens[:, 1:]
  np.testing.assert_allclose(grads, (1 - c) * by_hand / 3, rtol=1e-4, atol=1e-6)


def test_windows_are_strided_and_do_not_overhang():
  """Of 7 tokens windows of 3 begin at 0, 2 and 4: each token that differs costs its windows."""
  method = Kernel(MASKED, (Scale(3, 2, (1.0,)),))
  c = math.exp(-1.0)
  found = kernel_of(method, 1.0 - np.eye(7), 1)
  in_windows = np.array([1, 1, 2, 1, 2, 1, 1])
  np.testing.assert_allclose(found, (3 - in_windows * (1 - c)) / 3, rtol=1e-5)
  assert found.dtype == jnp.float32 and found.shape == (7,)


def test_defaults_are_the_documented_ones():
  assert Kernel(MASKED) == Kernel(MASKED, ((0, 1, (2.0, 8.0, 32.0)),), 0.0)
