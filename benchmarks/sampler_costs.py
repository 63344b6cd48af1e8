"""What a step of each sampler costs beside the evaluation of the network, on one device.

    python -m benchmarks.sampler_costs --config=text_dmmd

times a batch of `evaluate.sample_batch_size` samples of an untrained network, and as many
evaluations of it alone, by turns; of each the least of some rounds. It prints milliseconds a step,
and percent over the network's.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks import samplers
from dmmd_jax import config_file
from dmmd_jax.diffusion.samplers import Sampling
from dmmd_jax.phases import build
from dmmd_jax.positions import map_positions


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.sampler_costs",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--config", default="text_dmmd")
  parser.add_argument("--steps", type=int, default=8)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  programs = make_programs(args)
  for program in programs.values():
    jax.block_until_ready(program())
  least = dict.fromkeys(programs, float("inf"))
  for _ in range(args.rounds):
    for name, program in programs.items():
      start = time.perf_counter()
      jax.block_until_ready(program())
      least[name] = min(least[name], 1e3 * (time.perf_counter() - start) / args.steps)
  alone = least["network alone"]
  for name, milliseconds in least.items():
    print(f"{name:24} {milliseconds:8.2f} ms  {100 * (milliseconds / alone - 1):+5.1f} %")


def make_programs(args: argparse.Namespace) -> dict:
  """Functions that draw a batch in `--steps` steps; adaptive ones so that they take all."""
  config, _ = config_file.load(args.config, {})
  denoiser = build.make_denoiser(config, build.outline(config))
  params = nn.unbox(jax.jit(denoiser.init)(jax.random.key(0)))
  shape = (config.evaluate.sample_batch_size or 256, *denoiser.shape)
  predict = functools.partial(denoiser.log_mean, params)

  def network(i, z):
    log_x = predict(z, jnp.full(len(z), 0.5))
    highest = map_positions(lambda x: x.max(-1), log_x)
    return jnp.where(highest > 1.0, 0, z)  # never so; the next evaluation waits for it

  start = denoiser.process.sample_prior(jax.random.key(0), shape)
  programs = {"network alone": jax.jit(lambda: jax.lax.fori_loop(0, args.steps, network, start))}
  for name, variant in samplers.VARIANTS.items():
    sampler = variant.sampler
    if variant.field == "gamma":
      sampler = type(sampler)(gamma=0.0)
    sampling = Sampling(sampler)
    draw = functools.partial(sampling, predict, denoiser.process, jax.random.key(0), shape)
    programs[name] = jax.jit(functools.partial(draw, args.steps))
  return programs


if __name__ == "__main__":
  main()
