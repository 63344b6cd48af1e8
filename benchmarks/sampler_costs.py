"""What a step of each sampler costs beside the evaluation of the network, on one device.

    python -m benchmarks.sampler_costs --config=text_dmmd

times evaluations of an untrained network of the config on a batch of `evaluate.sample_batch_size`
samples, and the steps of samplers by themselves, whose predictions are given; of each the least of
some rounds, taken by turns. It prints milliseconds of the processors' time, and percent of the
network's.
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
from dmmd_jax.positions import whole


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.sampler_costs",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--config", default="text_dmmd")
  parser.add_argument("--samplers", default=";".join(samplers.VARIANTS), help="some, between ;")
  parser.add_argument("--evaluations", type=int, default=3)
  parser.add_argument("--steps", type=int, default=30)
  parser.add_argument("--rounds", type=int, default=5)
  args = parser.parse_args()
  programs = make_programs(args)
  for program in programs.values():
    jax.block_until_ready(program())
  least = dict.fromkeys(programs, float("inf"))
  for _ in range(args.rounds):
    for name, program in programs.items():
      steps = args.evaluations if name == "network" else args.steps
      start = time.process_time()
      jax.block_until_ready(program())
      least[name] = min(least[name], 1e3 * (time.process_time() - start) / steps)
  for name, milliseconds in least.items():
    print(f"{name:24} {milliseconds:8.2f} ms {100 * milliseconds / least['network']:6.1f} %")


def make_programs(args: argparse.Namespace) -> dict:
  """Functions of many evaluations, or steps; samplers that would stop are kept from it."""
  config, _ = config_file.load(args.config, {})
  denoiser = build.make_denoiser(config, build.outline(config))
  process, params = denoiser.process, nn.unbox(jax.jit(denoiser.init)(jax.random.key(0)))
  shape = (config.evaluate.sample_batch_size or 256, *denoiser.shape)
  start = process.sample_prior(jax.random.key(0), shape)
  evaluate = lambda params, z: whole(denoiser.log_mean(params, z, jnp.full(len(z), 0.5)))

  def network(_, z):
    return jnp.where(evaluate(params, z).max(-1) > 1.0, 0, z)  # the next one waits for it

  loop = functools.partial(jax.lax.fori_loop, 0, args.evaluations, network)
  programs = {"network": functools.partial(jax.jit(loop), start)}
  log_x = jax.jit(evaluate)(params, start)
  for name in args.samplers.split(";"):
    variant = samplers.VARIANTS[name]
    sampler = type(variant.sampler)(gamma=0.0) if variant.field == "gamma" else variant.sampler

    @functools.partial(jax.jit, static_argnums=1)
    def draw(log_x, sampling):
      predict = lambda z, t, key: log_x + 1e-9 * t[:, None, None]  # not the same in all steps
      return sampling(predict, process, jax.random.key(0), shape, args.steps)

    programs[name] = functools.partial(draw, log_x, Sampling(sampler, variant.grid))
  return programs


if __name__ == "__main__":
  main()
