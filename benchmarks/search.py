"""The search of `benchmarks.methods`: what runs cost, where they lie, which settings are best.

A run is known by its flags: `--config=`, and overrides.
"""

import argparse
import hashlib
import json
import math
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from etils import epath

from benchmarks import students
from benchmarks.steps import distill_parts, distill_programs
from dmmd_jax import config as config_checks
from dmmd_jax import config_file, config_settings, flops, positions, records
from dmmd_jax.distillation import registry
from dmmd_jax.training_log import DIVERGED

# Where settings are chosen: one number of steps alone is within its errors for most of them.
CHOSEN_AT = (1, 2, 4, 8)
# None that students of a table have: they would be what looked best by chance.
_SEED = 1000
# Far below any metric that is chosen by.
_LEAST = 1e-6
# Steps that are timed, after a first one.
_TIMED = 10


def load(flags: list[str]):
  """The config of a run."""
  path, overrides = split(flags)
  config, given = config_file.load(path, config_file.split(overrides)[0])
  config_checks.apply_preset(config, given)
  return config


def split(flags: list[str]) -> tuple[str, list[str]]:
  """The config and all other flags, as `students.compare` has them."""
  return flags[0].removeprefix("--config="), flags[1:]


def costs(flags: list[str]) -> tuple[float, float]:
  """Seconds of the start, and the least of three times of a step, of a teacher that is not trained.

  Compilation is in neither.
  """
  config = load(flags)
  config_checks.check(config)
  init, step = distill_programs(config)
  start = time.perf_counter()
  jax.block_until_ready(init())
  begun = time.perf_counter() - start
  jax.block_until_ready(step())
  times = []
  for _ in range(3):
    start = time.perf_counter()
    for _ in range(_TIMED):
      jax.block_until_ready(step())
    times.append((time.perf_counter() - start) / _TIMED)
  return begun, min(times)


def predictions(flags: list[str]) -> int | None:
  """The network evaluations of a step, by their matrix products: 1 is a prediction for an example.

  One with its gradient is some 3.6. What a method makes before the first step is not in it; what it
  makes in some steps only, as new couples of ReDi, is. None for a loop of unknown length.
  """
  config = load(flags)
  config_checks.check(config)
  method, init, batch = distill_parts(config)
  key, network = jax.random.key(0), method.parts.auxiliary
  params = jax.eval_shape(lambda: nn.unbox(network.init(key)))
  try:
    step = flops.flops(method.step, jax.eval_shape(init, params), batch, key)
  except ValueError:
    return None
  z, t = jnp.zeros((1, *network.shape), jnp.int32), jnp.zeros(1)
  predict = lambda params: positions.whole(network.log_probs(params, z, t))
  return round(step / flops.flops(predict, params))


def kept(path, key: str, make: Callable[[], Any]) -> Any:
  """A value of a JSON file, made where the file has none by this name."""
  found = json.loads(path.read_text()) if path.is_file() else {}
  if key not in found:
    found[key] = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")
  return found[key]


def timed(flags: list[str], cost: tuple[float, float], seconds: float) -> list[str]:
  """Flags of a run that trains for so many seconds. Raises `ConfigError` where it cannot begin."""
  begun, per_step = cost
  if begun + per_step > seconds:
    raise config_checks.ConfigError(
      f"{begun:.3g} s before the first step, and {per_step:.3g} s a step; give more --minutes,"
      " or --chosen_for"
    )
  return [*flags, f"--config.distill.num_steps={round((seconds - begun) / per_step)}"]


def at_rate(flags: list[str], factor: float) -> list[str]:
  """Flags with the learning rates of student and auxiliary model times a factor."""
  config = load(flags)
  rates = {
    name: config.distill[name].learning_rate * factor
    for name in ("student_optimizer", "auxiliary_optimizer")
  }
  return flags + [f"--config.distill.{n}.learning_rate={r:.3g}" for n, r in rates.items()]


def folder(method: str, flags: list[str], args: argparse.Namespace) -> str:
  """Where a run lies in `--out`: that of another config or another teacher lies elsewhere."""
  config = load(flags)
  config_settings.complete(config)
  digests = []
  for teacher in students.teachers_of(args):
    digests.append(records.find_model(epath.Path(teacher), "teacher").digest)
    if reference := config.get("reference", {}).get("workdir"):  # by which text is measured
      workdir = reference.replace(students.TEACHER, str(teacher))
      digests.append(records.find_model(epath.Path(workdir), "reference").digest)
  made_of = f"{config.to_json(sort_keys=True, default=str)} {digests}"
  return f"{method}/{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def choose(
  method: str,
  metric: str,
  candidates: list[tuple[list[str], tuple[float, float]]],
  seconds: float,
  args: argparse.Namespace,
) -> int:
  """Which of some flags, with what each costs, is lowest in a metric at `CHOSEN_AT` after so long.

  Those that cannot begin in time, or that diverge, are none. Raises `ConfigError` where no other is
  left.
  """
  search = argparse.Namespace(**vars(args) | {"split": "validation"})
  num_steps = getattr(registry.find(method), "num_steps", lambda steps: steps)
  steps = tuple(dict.fromkeys(map(num_steps, CHOSEN_AT)))

  def mean_metric(candidate: tuple[list[str], tuple[float, float]]) -> float:
    try:
      flags = timed(*candidate, seconds)
      variant = f"search/{folder(method, flags, args)}", *split(flags)
      (found,) = students.compare({method: variant}, steps, search, steps[:1], [_SEED])[method]
    except config_checks.ConfigError:
      return math.inf
    except subprocess.CalledProcessError as error:
      if error.returncode != DIVERGED:
        raise
      return math.inf
    cells = [found.cells["student", metric, number] for number in steps]
    # Unbiased estimates may be below 0, and one batch has no error.
    mean = statistics.geometric_mean([max(value, error, _LEAST) for value, error, _ in cells])
    return mean if math.isfinite(mean) else math.inf

  if len(candidates) == 1:
    return 0
  values = [mean_metric(candidate) for candidate in candidates]
  config_checks.require(
    min(values) < math.inf,
    "every candidate diverges, or cannot begin in time; give more --minutes, or --chosen_for",
  )
  return values.index(min(values))
