"""What a training step costs beside others, timed in turns: `python -m benchmarks.steps`.

Of the digits networks: a joint step against a generator and an auxiliary update, and a step of the
kernel score (two noises) against two teacher steps of the same batch.
"""

import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs import digits_dmmd, digits_kernel
from dmmd_jax import optimization
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.phases import build, distill, teacher

ROUNDS = 20


def distill_parts(config):
  """A method, its `init` as a function of a teacher's parameters, and the batch of a step."""
  dataset = build.make_dataset(config)
  method = distill.make_method(config, dataset)
  size = config.distill.batch_size * method.batches_per_step
  init = lambda params: nn.unbox(method.init(jax.random.key(1), params))
  return method, init, Batch(jnp.asarray(dataset.train[:size]))


def distill_programs(config):
  """The start of a student and a step of it, compiled, as functions without arguments."""
  method, init, batch = distill_parts(config)
  params = nn.unbox(jax.jit(method.parts.auxiliary.init)(jax.random.key(0)))
  init = jax.jit(init).lower(params).compile()
  state = init(params)
  step = jax.jit(method.step).lower(state, batch, jax.random.key(2)).compile()
  return lambda: init(params), lambda: step(state, batch, jax.random.key(2))


def teacher_steps(config, count: int):
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  optimizer = optimization.make_optimizer(config.teacher.optimizer, 100)
  state = teacher.initial_state(nn.unbox(jax.jit(denoiser.init)(jax.random.key(0))), optimizer)
  batch = Batch(jnp.asarray(dataset.train[: config.distill.batch_size]))
  step = teacher.make_step(config, denoiser, optimizer)
  compiled = jax.jit(step).lower(state, batch, jax.random.key(2)).compile()

  def steps():
    new = state
    for _ in range(count):
      new, _ = compiled(new, batch, jax.random.key(2))
    return new

  return steps


def compare(name: str, ours, theirs) -> None:
  seconds = {"ours": [], "theirs": []}
  for _ in range(ROUNDS):
    for which, step in (("ours", ours), ("theirs", theirs)):
      start = time.perf_counter()
      jax.block_until_ready(step())
      seconds[which].append(time.perf_counter() - start)
  a, b = (1e3 * np.array(times[1:]) for times in seconds.values())
  ratios = a / b
  quartiles = np.percentile(ratios, [25, 75])
  print(
    f"{name}: {np.median(a):.0f} ms against {np.median(b):.0f} ms, ratio {np.median(ratios):.2f}"
    f" (quartiles {quartiles[0]:.2f} to {quartiles[1]:.2f})"
  )


def main() -> None:
  config = digits_dmmd.get_config()
  _, alternate = distill_programs(config)
  config.distill.updates = "joint"
  _, joint = distill_programs(config)
  compare("joint / generator + auxiliary", joint, alternate)
  config = digits_kernel.get_config()
  _, score = distill_programs(config)
  compare("kernel score / two teacher steps", score, teacher_steps(config, 2))


if __name__ == "__main__":
  main()
