"""Networks that look every sequence up in a table, and parts made of them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dmmd_jax.diffusion.processes import expand
from dmmd_jax.distillation.parts import Parts, Training

D = 2


class Lookup:
  """`log E[x | z_t]` `[B, D, K]` from logits `[states ** D, D, K]` and their slopes in time."""

  def __init__(self, process):
    self.process = process

  def init(self, key):
    shape = self.process.num_states**D, D, self.process.num_categories
    logits, slopes = jax.random.split(key)
    return {"logits": jax.random.normal(logits, shape), "slopes": jax.random.normal(slopes, shape)}

  def given(self, batch):
    return self

  def log_mean(self, params, z, t, key=None):
    row = (z * self.process.num_states ** jnp.arange(D)[::-1]).sum(-1)
    logits = params["logits"][row]
    return jax.nn.log_softmax(logits + expand(t, logits) * params["slopes"][row])


def make_parts(process, num_steps=7, num_blocks=1, microbatches=1, dtype="float32"):
  network, optimizer = Lookup(process), optax.adam(0.1)
  training = Training(
    num_steps=num_steps,
    batch_size=4,
    microbatches=microbatches,
    ema=0.9,
    teacher_dtype=dtype,
    student_optimizer=optimizer,
    auxiliary_optimizer=optimizer,
    updates="joint",
    auxiliary_updates=1,
  )
  return Parts(
    process=process,
    teacher=network,
    student=network,
    auxiliary=network,
    prediction="mean",
    num_tokens=process.num_categories,
    num_blocks=num_blocks,
    student_nfe=1,
    from_prior=False,
    temperature=1.0,
    top_p=1.0,
    top_p_penalty=2.0,
    training=training,
    teacher_loss=None,
  )


def rows_of(law, num_categories, size):
  """Sequences `[size, D]` of a law `[K ** D]` in sixteenths, whatever the order of time."""
  cycle = np.repeat(np.arange(len(law)), np.round(16 * law).astype(int))
  assert len(cycle) == 16
  index = np.random.default_rng(0).permutation(cycle)[np.arange(size) % 16]
  return np.stack(np.unravel_index(index, (num_categories,) * D), -1)


class Spy:
  """A network whose logits are a table of its tokens; keeps what it is asked for."""

  def __init__(self):
    self.asked = []

  def given(self, batch):
    return self

  def log_mean(self, params, z, t, key=None):
    self.asked.append((z, t, key is not None))
    return jax.nn.log_softmax(jnp.asarray(params)[z])


def run(losses, spies, eta, phi, gradients=True):
  """One program for a step: `losses(eta, phi)` gives two losses and metrics.

  Returns both, the metrics, and of each loss the gradients in `eta` and `phi` if they are wanted.
  After it `spies` have what they were asked for as NumPy arrays.
  """
  noisy = []

  def watched(eta, phi):
    for spy in spies:
      spy.asked = []
    *both, metrics = losses(eta, phi)
    noisy[:] = [[one[2] for one in spy.asked] for spy in spies]
    return tuple(both), (metrics, [[one[:2] for one in spy.asked] for spy in spies])

  @jax.jit
  def compiled(eta, phi):
    if not gradients:
      both, (metrics, asked) = watched(eta, phi)
      return both, metrics, None, asked
    both, pullback, (metrics, asked) = jax.vjp(watched, eta, phi, has_aux=True)
    return both, metrics, (pullback((1.0, 0.0)), pullback((0.0, 1.0))), asked

  *found, asked = jax.tree.map(np.asarray, compiled(eta, phi))
  for spy, arrays, with_noise in zip(spies, asked, noisy, strict=True):
    spy.asked = [(*one, noise) for one, noise in zip(arrays, with_noise, strict=True)]
  return found
