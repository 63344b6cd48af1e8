"""All methods of distillation on one teacher, each trained for the same time.

    python -m benchmarks.methods --data=hmm --teacher=runs/hmm_dmmd --minutes=5 --out=runs/methods

times a step of each method, compiled, and gives it as many steps as fill `--minutes`, less the time
of what it makes before the first one, such as the couples of ReDi. A learning rate is chosen for
each, and whole networks or changes of low rank where a method takes them, by the same search: of
one seed and half of the time each, by the geometric mean of the first metric at one to eight steps
on the validation split. Then every seed is distilled and measured on `--split`. Process and loss
are those of the teacher; what a method cannot do with it is printed in its own words.
`--methods=dmmd,sdtt` takes some of them. Several teachers are taken by turns, one a seed. What is
complete in `--out` is not run again, times and choices included (`choices/`).
Arguments after `--` go to every run.

It prints tables (mean over seeds, and the larger of its standard error and that of one cell; what
was chosen, rank 0 for whole networks, rates in those of the config), and writes `results.json` for
`benchmarks.tables`, and `methods.png`. Of text, `benchmarks.frontier` shows the temperatures.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import jax
from etils import epath

from benchmarks import few_steps
from benchmarks.steps import distill_programs
from dmmd_jax import config as config_checks
from dmmd_jax import config_file, config_settings, records
from dmmd_jax.distillation import registry
from dmmd_jax.training_log import DIVERGED


@dataclasses.dataclass(frozen=True)
class Data:
  """What students are compared on, and the metrics that tables have, the first to choose by.

  A method has the config `<name>_<method>.py` where there is one, else that of D-MMD. `overrides`
  of a run may name its teacher.
  """

  name: str
  metrics: tuple[str, ...]
  overrides: tuple[str, ...] = ()


DATA = {
  "hmm": Data(
    "hmm",
    # Not nats per token first: the likeliest sequence alone has the fewest.
    ("pair_tv", "nll", "kernel_mmd", "entropy"),
    # Methods whose student becomes the teacher need one that is a network.
    ("--config.distill.teacher=network",),
  ),
  "digits": Data("digits", few_steps.METRICS["digits"]),
  "text": Data(
    "text",
    few_steps.METRICS["text"],
    (f"--config.reference.workdir={few_steps.TEACHER}",),
  ),
}
# What methods need, wherever their own config does not say it.
_FEW_COUPLES = ["--config.distill.redi.num_pairs=2000", "--config.distill.redi.nfe=32"]
NEEDS = {
  "dimo": ["--config.distill.student_nfe=1"],
  "sdtt": ["--config.distill.student_nfe=8", "--config.distill.sdtt.teacher_nfe=64",
           "--config.distill.sdtt.rounds=3"],
  "dcd": ["--config.distill.dcd.teacher_nfe=64", "--config.distill.dcd.rounds=3"],
  "redi": _FEW_COUPLES,
  # As teachers are trained; few-step students are not.
  "continued": ["--config.distill.student_optimizer.b1=0.9"],
}  # fmt: skip
# What they need where the process is not the masked one.
_HARD = ["--config.distill.dmmd.auxiliary_target=hard"]
NEEDS_UNMASKED = {
  "dmmd": _HARD, "dmmd_kernel": _HARD, "redi": ["--config.distill.noise=none"]
}  # fmt: skip
STEPS = (1, 2, 4, 8, 16)
# Where settings are chosen: one number of steps alone is within its errors for most of them.
CHOSEN_AT = (1, 2, 4, 8)
# In those of the config.
RATES = "0.33,1,3"
RANKS = "0,16"  # 0: of whole networks
# Far below any metric that is chosen by.
_LEAST = 1e-6
# Steps that are timed, after a first one.
_TIMED = 10


def config_of(method: str, data: Data) -> str:
  name = {"kernel_score": "kernel"}.get(method, method)
  own = pathlib.Path(f"configs/{data.name}_{name}.py")
  return str(own) if own.is_file() else f"configs/{data.name}_dmmd.py"


def settings(method: str, data: Data, args: argparse.Namespace) -> list[str]:
  """Config and overrides of a method on this data. Raises `ConfigError` for what it cannot do."""
  teacher = records.find_model(epath.Path(few_steps.teachers_of(args)[0]), "teacher").config
  is_masked = teacher.process.name == "masked"
  found = [
    f"--config={config_of(method, data)}",
    f"--config.distill.method={method}",
    f"--config.process.name={teacher.process.name}",
    f"--config.teacher.loss={teacher.teacher.loss}",
    *data.overrides,
    *NEEDS.get(method, []),
    *([] if is_masked else NEEDS_UNMASKED.get(method, [])),
    *args.extra,
  ]
  noises = registry.find(method).noises
  if load(found).distill.noise not in noises:
    found.append(f"--config.distill.noise={noises[0]}")
  config_checks.check(load(found))
  return found


def load(flags: list[str]):
  """The config of a run."""
  path, overrides = split(flags)
  config, given = config_file.load(path, config_file.split(overrides)[0])
  config_checks.apply_preset(config, given)
  return config


def split(flags: list[str]) -> tuple[str, list[str]]:
  """The config of `settings`, and all other flags, as `few_steps.compare` has them."""
  return flags[0].removeprefix("--config="), flags[1:]


def costs(flags: list[str]) -> tuple[float, float]:
  """Seconds of the start, and the least of three times of a step, of a teacher that is not trained.

  Compiled both.
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
      f"{begun:.3g} s before the first step, and {per_step:.3g} s a step; give more --minutes"
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
  # Text is measured by a model beside the teacher.
  models = ("teacher", "reference") if config.get("reference") else ("teacher",)
  digests = [
    records.find_model(epath.Path(workdir), model).digest
    for workdir in few_steps.teachers_of(args)
    for model in models
  ]
  made_of = f"{config.to_json(sort_keys=True, default=str)} {digests}"
  return f"{method}/{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"


def choose(
  method: str,
  data: Data,
  candidates: list[tuple[list[str], tuple[float, float]]],
  args: argparse.Namespace,
) -> int:
  """Which of some flags, each with what it costs, is lowest in the first metric at `CHOSEN_AT`.

  Those that cannot begin in time, or that diverge, are none. Raises `ConfigError` where no other is
  left.
  """
  search = argparse.Namespace(**vars(args) | {"seeds": 1, "split": "validation"})
  num_steps = getattr(registry.find(method), "num_steps", lambda steps: steps)
  steps = tuple(dict.fromkeys(map(num_steps, CHOSEN_AT)))

  def mean_metric(candidate: tuple[list[str], tuple[float, float]]) -> float:
    try:
      flags = timed(*candidate, 30.0 * args.minutes)
      variant = f"search/{folder(method, flags, args)}", *split(flags)
      (found,) = few_steps.compare({method: variant}, steps, search, steps[:1])[method]
    except config_checks.ConfigError:
      return math.inf
    except subprocess.CalledProcessError as error:
      if error.returncode != DIVERGED:
        raise
      return math.inf
    cells = [found["student", data.metrics[0], number] for number in steps]
    # Unbiased estimates may be below 0, and one batch has no error.
    mean = statistics.geometric_mean([max(value, error, _LEAST) for value, error, _ in cells])
    return mean if math.isfinite(mean) else math.inf

  if len(candidates) == 1:
    return 0
  values = [mean_metric(candidate) for candidate in candidates]
  config_checks.require(
    min(values) < math.inf, "every rate diverges, or cannot begin in time; give more --minutes"
  )
  return values.index(min(values))


def ready(method: str, data: Data, args: argparse.Namespace) -> list[str]:
  """The flags of a method with what was chosen, for `--minutes` of training.

  Raises `ConfigError` for what it cannot do, and where it cannot begin in time.
  """
  flags = settings(method, data, args)
  rates = [float(factor) for factor in args.rates.split(",")]
  takes_low_rank = getattr(registry.find(method), "takes_low_rank", False)
  ranks = [int(rank) for rank in args.ranks.split(",")] if takes_low_rank else [0]
  keep = functools.partial(kept, args.out / "choices" / f"{method}.json")
  candidates = []
  for rank in ranks:
    one = [*flags, f"--config.distill.lora_rank={rank}"]
    cost = keep(f"seconds of {folder(method, one, args)}", functools.partial(costs, one))
    candidates += [(at_rate(one, rate), cost) for rate in rates]
  chosen = keep(
    f"of rates {rates} and ranks {ranks} at {CHOSEN_AT} steps in {args.minutes:g} minutes of"
    f" {folder(method, flags, args)}",
    functools.partial(choose, method, data, candidates, args),
  )
  return timed(*candidates[chosen], 60.0 * args.minutes)


def chosen_rows(
  method: str, flags: list[str], data: Data, args: argparse.Namespace
) -> list[dict[str, Any]]:
  """What a method was trained with, and what that costs, as rows of `few_steps.show`."""
  distill, begun_from = load(flags).distill, load(settings(method, data, args)).distill
  rates = (x.student_optimizer.learning_rate for x in (distill, begun_from))
  found = {
    "updates": distill.num_steps,
    "seconds an update": 60.0 * args.minutes / distill.num_steps,
    "rank": distill.lora_rank,
    "rate": next(rates) / next(rates),
  }
  return [
    {"model": method, "metric": m, "nfe": 0, "value": v, "stderr": None} for m, v in found.items()
  ]


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.methods",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--data", choices=DATA, default="hmm")
  parser.add_argument("--methods", default=",".join(registry.METHODS))
  parser.add_argument("--rates", default=RATES, help="in those of the config, to choose from")
  parser.add_argument("--ranks", default=RANKS, help="to choose from; 0 trains whole networks")
  parser.add_argument("--minutes", type=float, default=5.0, help="of training, without compilation")
  few_steps.add_arguments(parser, out="runs/methods")
  parser.add_argument("extra", nargs="*")
  args = parser.parse_args()
  for word in args.extra:
    if "lora_rank" in word or "learning_rate" in word:
      parser.error(f"{word} is what is chosen here; give --ranks and --rates")
  data, results, chosen_with = DATA[args.data], {}, []
  for method in args.methods.split(","):
    try:
      chosen = ready(method, data, args)
      variant = folder(method, chosen, args), *split(chosen)
      teacher_steps = STEPS[:1] if results else STEPS
      results |= few_steps.compare({method: variant}, STEPS, args, teacher_steps)
      chosen_with += chosen_rows(method, chosen, data, args)
    except config_checks.ConfigError as error:
      print(f"{method}: {error}", flush=True)
    except subprocess.CalledProcessError as error:
      if error.returncode != DIVERGED:
        raise
      print(f"{method}: diverges at what was chosen in half of the time", flush=True)
  if not results:
    parser.exit(1, "no method has a student\n")
  found = few_steps.summary(results, data.metrics, STEPS, args)
  few_steps.show(found | {"rows": found["rows"] + chosen_with}, args.out)
  first = data.metrics[0]
  few_steps.plot(few_steps.statistics(results, first, STEPS), first, args.out / "methods.png")


if __name__ == "__main__":
  main()
