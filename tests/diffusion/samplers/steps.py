"""One step of a sampler at random predictions, and laws of steps by enumeration."""

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.samplers.sampler import Moment, Reading
from tests import enumeration

B, N, K = 60, 7, 5
MASKED = processes.Masked(K)


def make_case(seed=0, share=0.5):
  """A moment at `t` `[B]` with about a `share` of masks, one prompt token, and a reading."""
  rng = np.random.default_rng(seed)
  z = np.where(rng.random((B, N)) < share, K, rng.integers(K, size=(B, N)))
  z[0], z[1] = K, 0  # all masked, and none
  is_free = np.arange(N) != 2
  z[:, 2] = 1
  t = rng.uniform(0.3, 1.0, B)
  moment = Moment(
    jnp.asarray(z), jnp.asarray(t, jnp.float32), jnp.asarray(t * rng.random(B), jnp.float32),
    jnp.broadcast_to(jnp.asarray(is_free), (B, N)), jnp.asarray(False), jax.random.key(seed),
  )  # fmt: skip
  floats = [jnp.asarray(rng.random((B, N)), jnp.float32) for _ in range(3)]
  x = jnp.asarray(rng.integers(K, size=(B, N)))
  return moment, Reading(x, floats[0], -3.0 * floats[1], floats[2])


def take(sampler, moment, reading, memory=()):
  """`z_s` and the memory of a step, as NumPy has them."""
  step = jax.jit(lambda *args: sampler.step(MASKED, *args))
  return jax.tree.map(np.asarray, step(moment, reading, memory))


def revealed(moment, reading, chosen):
  """States of a step that reveals the positions `chosen`, a list for each example."""
  z = np.array(moment.z)
  for b, positions in enumerate(chosen):
    z[b, positions] = np.asarray(reading.x)[b, positions]
  return z


def law_of_step(process, joint, z, s, t, of_x):
  """The law of `z_s` of each position given each of the states `z`, `[len(z), D, S]`.

  `of_x(z_t, x)` is the law `[S]` of a position for one-hot `x` `[K]`; `joint` is over all
  sequences, and `x` drawn from the exact prediction.
  """
  mean, _ = enumeration.predictions(process, joint, z, t)
  one_hot = np.eye(process.num_categories)
  given = lambda i: np.array([of_x(i, x) for x in one_hot])
  return np.array(
    [[p @ given(i) for p, i in zip(*of, strict=True)] for of in zip(mean, z, strict=True)]
  )


def marginals(process, joint, length, t):
  """The law of a state at each position, `[D, S]`, and that of all `z` of `sequences`."""
  z = enumeration.sequences(process.num_states, length)
  x = enumeration.sequences(process.num_categories, length)
  law = enumeration.likelihood(process, z, x, t).prod(-1) @ joint
  return np.array([np.bincount(z[:, d], law, process.num_states) for d in range(length)]), law
