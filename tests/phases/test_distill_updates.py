"""How optimisers, averages and parts of a batch make a step of a method, beside it written out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data.pipeline import Batch
from dmmd_jax.distillation import dmmd, kernel_score
from dmmd_jax.phases import distill
from tests.phases.tables import DATA, KEY, K, make_config, make_params, tables  # noqa: F401


def adamw(params, grads, moments, count, c, num_steps):
  """One update as the papers write it, after `count` others; all are arrays."""
  grads = grads * min(1.0, c.clip_norm / np.linalg.norm(grads))
  after, rate = count - c.warmup_steps, c.learning_rate
  if after < 0:
    rate *= count / c.warmup_steps
  elif c.decay == "linear":
    rate *= 1 - after / (num_steps - c.warmup_steps)
  elif c.decay == "cosine":
    rate *= 0.5 * (1 + np.cos(np.pi * after / (num_steps - c.warmup_steps)))
  first = c.b1 * moments[0] + (1 - c.b1) * grads
  second = c.b2 * moments[1] + (1 - c.b2) * grads**2
  unbiased = first / (1 - c.b1 ** (count + 1)), second / (1 - c.b2 ** (count + 1))
  change = unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8) + c.weight_decay * params
  return params - rate * change, (first, second)


def simple_losses(eta, phi, theta, batch, key, for_student=True):
  """Has the arguments of the losses of a method, and depends on each of them."""
  u = jax.random.normal(key, (K,)) + batch.tokens.mean(0)[:K] * batch.labels.mean()
  x, y = (0.0 if p is None else p["slope"].astype(jnp.float32) for p in (phi, theta))
  generator = (
    (eta["slope"] - jax.lax.stop_gradient(x) - u) ** 2 + for_student * eta["slope"]
  ).sum()
  auxiliary = (
    (x - jax.lax.stop_gradient(eta["slope"])) ** 2 * 0.5 + (x - y) * u + for_student * x
  ).sum()
  return generator, auxiliary, {"generator_loss": generator}


def simple_loss(eta, theta, batch, key):
  generator, _, metrics = simple_losses(eta, None, theta, batch, key)
  return generator, metrics


def mean_gradient(which, params, theta, batch, key, for_student=True):
  """Over two parts of the batch, taken by turns, each with a key of its own."""
  total = 0.0
  for i, part_key in enumerate(jax.random.split(key)):
    part = jax.tree.map(lambda x, i=i: x[i::2], batch)
    total += jax.grad(
      lambda p, part=part, key=part_key: simple_losses(
        *({"slope": v} for v in p), theta, part, key, for_student
      )[which]
    )(params)[which]
  return np.asarray(total, np.float64) / 2


@pytest.mark.parametrize("updates", ["alternate", "joint", "score"])
def test_steps_are_those_of_two_optimisers_written_out(updates, monkeypatch):
  """Three steps of a student and an auxiliary: every number of both optimisers, the lengths of both
  schedules, the average, parts of a batch, and the precision of the frozen teacher."""
  num_steps, more = 3, 2 if updates == "alternate" else 1
  config = make_config(
    method="kernel_score" if updates == "score" else "dmmd",
    updates="joint" if updates == "joint" else "alternate",
    num_steps=num_steps,
    auxiliary_updates=2,
    microbatches=2,
    ema=0.7,
    teacher_dtype="bfloat16",
    score__target="teacher",
  )
  c = config.distill
  c.student_optimizer.update(
    {"learning_rate": 0.02, "warmup_steps": 1, "decay": "cosine", "b1": 0.5, "b2": 0.9}
    | {"weight_decay": 0.1, "clip_norm": 0.05}
  )
  c.auxiliary_optimizer.update(
    {"learning_rate": 0.03, "warmup_steps": 0, "decay": "linear", "b1": 0.3, "b2": 0.8}
    | {"weight_decay": 0.2, "clip_norm": 0.1}
  )
  monkeypatch.setattr(dmmd.DMMD, "losses", lambda self, *args: simple_losses(*args))
  monkeypatch.setattr(kernel_score.KernelScore, "loss", lambda self, *args: simple_loss(*args))
  method = distill.make_method(config, DATA)
  _, _, theta = make_params(method.parts.process.num_states)
  state = nn.unbox(jax.jit(method.init)(jax.random.key(2), theta))
  assert {a.dtype.name for a in jax.tree.leaves(state.teacher)} == {"bfloat16"}
  assert (state.auxiliary is None) == (updates == "score")
  jitted, parts = jax.jit(method.step), method.batches_per_step
  assert parts == {"alternate": 3, "joint": 1, "score": 1}[updates]

  slopes = [np.asarray(theta["slope"]), np.asarray(theta["slope"])]
  if updates == "score":
    slopes[1] = np.zeros(K)
  moments = [(np.zeros(K), np.zeros(K))] * 2
  ema = weights = 0.0
  for i in range(num_steps):
    rows = slice(i, i + 4 * parts)
    batch = Batch(jnp.asarray(DATA.train[rows]), jnp.asarray(DATA.train_labels[rows]))
    key = jax.random.fold_in(KEY, i)
    state, metrics = jitted(state, batch, key)
    keys = jax.random.split(key, parts) if parts > 1 else [key]
    mine = [jax.tree.map(lambda x, j=j: x[j::parts], batch) for j in range(parts)]
    of_student = mean_gradient(0, slopes, state.teacher, mine[0], keys[0])
    of_auxiliary = mean_gradient(1, slopes, state.teacher, mine[0], keys[0])
    slopes[0], moments[0] = adamw(
      slopes[0], of_student, moments[0], i, c.student_optimizer, num_steps
    )
    for j in range(0 if updates == "score" else more):
      if updates == "alternate":
        of_auxiliary = mean_gradient(
          1, slopes, state.teacher, mine[1 + j], keys[1 + j], for_student=False
        )
      slopes[1], moments[1] = adamw(
        slopes[1], of_auxiliary, moments[1], more * i + j, c.auxiliary_optimizer, more * num_steps
      )
    ema, weights = 0.7 * ema + 0.3 * slopes[0], 0.7 * weights + 0.3
    np.testing.assert_allclose(
      metrics["student_gradient_norm"], np.linalg.norm(of_student), rtol=1e-4
    )
    np.testing.assert_allclose(state.student.params["slope"], slopes[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.ema["slope"], ema / weights, rtol=1e-4, atol=1e-5)
    if updates != "score":
      np.testing.assert_allclose(
        metrics["auxiliary_gradient_norm"], np.linalg.norm(of_auxiliary), rtol=1e-4
      )
      np.testing.assert_allclose(state.auxiliary.params["slope"], slopes[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(state.teacher["slope"], theta["slope"].astype(jnp.bfloat16))
