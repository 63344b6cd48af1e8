"""All methods of distillation on one teacher, each trained for the same time.

    python -m benchmarks.methods --data=hmm --teacher=runs/hmm_dmmd --minutes=5 --out=runs/methods

times a step of each method, compiled, and gives it as many steps as fill `--minutes`, less the time
of what it makes before the first one, such as the couples of ReDi. A learning rate is chosen for
each, and whole networks or changes of low rank where a method takes them, by the same search: of
one seed, which no table has, and half of the time each, by the geometric mean of the first metric
at one to eight steps on the validation split. Where a method leaves open for how many steps a
student is made, that is chosen likewise with this rate, and then the rate again with that number,
both in all of the time, since one depends on the other. `--chosen_for` is the time of the search,
where it is not that of training: `--minutes=4 --chosen_for=1` trains four times as long with the
settings for a minute. Then every seed is distilled and measured on `--split`. Process and loss are
those of the teacher; what a method cannot do with it is printed in its own words.
`--methods=dmmd,sdtt` takes some of them. Several teachers are taken by turns, one a seed. What is
complete in `--out` is not run again, times and choices included (`choices/`), whichever code and
machine made it: take another `--out` for these. Tables say which commit their rows are of.
Arguments after `--` go to every run.

It prints tables (mean over seeds, and the larger of its standard error and that of one cell; what
was chosen, rank 0 for whole networks, rates in those of the config; how many predictions of a
network an update is, by its matrix products), and writes `results.json` for `benchmarks.tables`,
and `methods.png`. Of text, `benchmarks.frontier` shows the temperatures.
"""

import argparse
import dataclasses
import functools
import pathlib
import subprocess
from typing import Any

from etils import epath

from benchmarks import search, students
from dmmd_jax import config as config_checks
from dmmd_jax import records, sources
from dmmd_jax.distillation import registry
from dmmd_jax.training_log import DIVERGED


@dataclasses.dataclass(frozen=True)
class Data:
  """What students are compared on, and the metrics that tables have, the first to choose by.

  A method has the config `<name>_<method>.py` where there is one, else that of D-MMD. `overrides`
  of a run may name its teacher; `needs` are those of single methods.
  """

  name: str
  metrics: tuple[str, ...]
  overrides: tuple[str, ...] = ()
  needs: dict[str, list[str]] = dataclasses.field(default_factory=dict)


DATA = {
  "hmm": Data(
    "hmm",
    # Not nats per token first: the likeliest sequence alone has the fewest.
    ("pair_tv", "pair_mmd", "nll", "kernel_mmd", "entropy"),
    # Methods whose student becomes the teacher need one that is a network.
    ("--config.distill.teacher=network",),
    # By validation data of this teacher, a stride of 2 being as good; the configs are for the exact
    # one.
    {
      "dmmd": ["--config.distill.batch_size=32"],
      "dmmd_kernel": [
        "--config.distill.dmmd_kernel.dmmd_noises=first",
        "--config.distill.dmmd_kernel.score_stride=4",
        "--config.distill.dmmd_kernel.dmmd_weight=10.0",
      ],
    },
  ),
  "digits": Data("digits", students.METRICS["digits"]),
  "text": Data(
    "text",
    students.METRICS["text"],
    (f"--config.reference.workdir={students.TEACHER}",),
    # As many as are drawn in a quarter of a minute.
    {"redi": ["--config.distill.redi.num_pairs=500"]},
  ),
}
# What methods need besides D-MMD's config; one of their own says the same. Those of D-MMD are some
# without momentum, and with rates that fall to zero, which the last of several rounds feels.
_FEW_COUPLES = ["--config.distill.redi.num_pairs=2000", "--config.distill.redi.nfe=32"]
_MOMENTUM = ["--config.distill.student_optimizer.b1=0.9"]
_IN_ROUNDS = [*_MOMENTUM, "--config.distill.student_optimizer.decay=constant"]
NEEDS = {
  # With momentum of its auxiliary model, as on digits, it is worse on the Markov model and text.
  "dimo": ["--config.distill.student_nfe=1"],
  "sdtt": ["--config.distill.student_nfe=8", "--config.distill.sdtt.teacher_nfe=64",
           "--config.distill.sdtt.rounds=3", *_IN_ROUNDS],
  "dcd": ["--config.distill.dcd.teacher_nfe=64", "--config.distill.dcd.rounds=3", *_IN_ROUNDS],
  "redi": [*_FEW_COUPLES, "--config.distill.noise_scale=1.0", *_MOMENTUM],
  # Fewer examples than D-MMD has: each is seen with many latents, or many samples are drawn of it.
  "di4c": ["--config.distill.batch_size=16", "--config.distill.noise=latent",
           "--config.distill.noise_dim=16", "--config.distill.noise_scale=100.0",
           "--config.distill.di4c.num_latents=8", "--config.distill.di4c.delta=0.05",
           "--config.distill.di4c.teacher_steps=64", "--config.distill.di4c.data_weight=1.0",
           *_MOMENTUM],
  "didi": ["--config.distill.batch_size=16",
           "--config.distill.student_optimizer.learning_rate=1e-4",
           "--config.distill.auxiliary_optimizer.learning_rate=2e-4",
           *_MOMENTUM, "--config.distill.auxiliary_optimizer.b1=0.9"],
  "continued": _MOMENTUM,
}  # fmt: skip
# What they need where the process is not the masked one.
_HARD = ["--config.distill.dmmd.auxiliary_target=hard"]
NEEDS_UNMASKED = {
  "dmmd": _HARD, "dmmd_kernel": _HARD, "redi": ["--config.distill.noise=none"]
}  # fmt: skip
NFE = (1, 2, 4, 8, 16)
# In those of the config.
RATES = (0.33, 1.0, 3.0)
RANKS = (0, 16)  # 0: of whole networks
MADE_FOR = (1, 2, 4)  # besides what the config says
# Extra arguments win over those of the comparison, whose tables would say what was not done.
SET_HERE = frozenset({
  "--config", "--workdir", "phases", "run.seed", "process.name", "teacher.loss", "distill.method",
  "distill.num_steps", "distill.teacher_workdir", "evaluate.split",
  "evaluate.teacher_nfe", "evaluate.student_nfe",
})  # fmt: skip
# Elsewhere `student_nfe` has no part in training, or is that of the last round.
CHOOSES_STEPS = frozenset({"dmmd", "kernel_score", "dmmd_kernel"})


def config_of(method: str, data: Data) -> str:
  name = {"kernel_score": "kernel"}.get(method, method)
  own = pathlib.Path(f"configs/{data.name}_{name}.py")
  return str(own) if own.is_file() else f"configs/{data.name}_dmmd.py"


def settings(method: str, data: Data, args: argparse.Namespace) -> list[str]:
  """Config and overrides of a method on this data. Raises `ConfigError` for what it cannot do."""
  teachers = [
    records.find_model(epath.Path(path), "teacher") for path in students.teachers_of(args)
  ]
  teacher = teachers[0].config
  is_masked = teacher.process.name == "masked"
  found = [
    f"--config={config_of(method, data)}",
    f"--config.distill.method={method}",
    f"--config.process.name={teacher.process.name}",
    f"--config.teacher.loss={teacher.teacher.loss}",
    *data.overrides,
    *NEEDS.get(method, []),
    *data.needs.get(method, []),
    *([] if is_masked else NEEDS_UNMASKED.get(method, [])),
    *args.extra,
  ]
  noises = registry.find(method).noises
  if search.load(found).distill.noise not in noises:
    found.append(f"--config.distill.noise={noises[0]}")
  config = search.load(found)
  config_checks.check(config)
  if config.distill.teacher != "exact":
    for source in teachers:
      sources.require_same(config, "teacher", source)
  return found


def ready(method: str, data: Data, args: argparse.Namespace) -> list[str]:
  """The flags of a method with what was chosen, for `--minutes` of training.

  Raises `ConfigError` for what it cannot do, and where it cannot begin in time.
  """
  flags = settings(method, data, args)
  rates = list(args.rates)
  takes_low_rank = getattr(registry.find(method), "takes_low_rank", False)
  ranks = list(args.ranks) if takes_low_rank else [0]
  keep = functools.partial(search.kept, args.out / "choices" / f"{method}.json")
  base = {rank: [*flags, f"--config.distill.lora_rank={rank}"] for rank in ranks}
  costs = {
    rank: keep(
      f"seconds of {search.folder(method, one, args)}", functools.partial(search.costs, one)
    )
    for rank, one in base.items()
  }

  def candidate(rank: int, rate: float, *steps: str) -> tuple[list[str], tuple[float, float]]:
    return search.at_rate([*base[rank], *steps], rate), costs[rank]

  def choose(what: str, grid: list[tuple], unchanged: list[str], seconds: float) -> tuple:
    """The best of `grid`; `unchanged` are the flags without what it varies."""
    key = (
      f"of {what} by {data.metrics[0]} at {search.CHOSEN_AT} steps after {seconds:g} s of"
      f" {search.folder(method, unchanged, args)}"
    )
    candidates = [candidate(*point) for point in grid]
    make = functools.partial(search.choose, method, data.metrics[0], candidates, seconds, args)
    return grid[keep(key, make)]

  minutes = args.minutes if args.chosen_for is None else args.chosen_for
  grid = [(rank, rate) for rank in ranks for rate in rates]
  chosen = choose(f"rates {rates} and ranks {ranks}", grid, flags, 30.0 * minutes)
  if method in CHOOSES_STEPS:
    with_rate, _ = candidate(*chosen)
    own = search.load(with_rate).distill.student_nfe
    made_for = sorted({own, *args.made_for})
    grid = [(*chosen, f"--config.distill.student_nfe={k}") for k in made_for]
    rank, _, steps = choose(f"students for {made_for}", grid, with_rate, 60.0 * minutes)
    grid = [(rank, rate, steps) for rate in rates]
    chosen = choose(f"rates {rates}", grid, [*base[rank], steps], 60.0 * minutes)
  return search.timed(*candidate(*chosen), 60.0 * args.minutes)


def chosen_rows(
  method: str, flags: list[str], data: Data, args: argparse.Namespace
) -> list[dict[str, Any]]:
  """What a method was trained with, and what that costs, as rows of `students.show`."""
  distill = search.load(flags).distill
  unchanged = search.load(settings(method, data, args)).distill.student_optimizer.learning_rate
  found = {
    "updates": distill.num_steps,
    "seconds an update, start included": 60.0 * args.minutes / distill.num_steps,
    "predictions an update": search.predictions(flags),
    "rank": distill.lora_rank,
    "rate": distill.student_optimizer.learning_rate / unchanged,
  }
  if method in CHOOSES_STEPS:
    found["made for"] = distill.student_nfe
  return [
    {"model": method, "metric": m, "nfe": 0, "value": v, "stderr": None}
    for m, v in found.items()
    if v is not None
  ]


def main() -> None:
  parser = argparse.ArgumentParser(
    prog="python -m benchmarks.methods",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--data", choices=DATA, default="hmm")
  parser.add_argument("--methods", default=",".join(registry.METHODS))
  parser.add_argument(
    "--rates", type=functools.partial(students.numbers, least=1e-6, kind=float), default=RATES,
    help="in those of the config, to choose from",
  )  # fmt: skip
  parser.add_argument(
    "--ranks", type=functools.partial(students.numbers, least=0), default=RANKS,
    help="to choose from; 0 trains whole networks",
  )  # fmt: skip
  parser.add_argument(
    "--made_for", type=lambda text: students.numbers(text) if text else (), default=MADE_FOR,
    help="numbers of steps to choose from, besides the config's",
  )  # fmt: skip
  parser.add_argument(
    "--nfe", type=students.numbers, default=NFE,
    help="at which teacher and students are measured; settings are chosen at 1, 2, 4 and 8",
  )  # fmt: skip
  parser.add_argument("--minutes", type=float, default=5.0, help="of training, without compilation")
  parser.add_argument(
    "--chosen_for", type=float, help="minutes for which settings are chosen (default: --minutes)"
  )
  students.add_arguments(parser, out="runs/methods")
  parser.add_argument("extra", nargs="*")
  args = parser.parse_args()
  if args.chosen_for is not None and not args.chosen_for > 0:
    parser.error(f"--chosen_for is {args.chosen_for:g}; expected minutes, more than 0")
  methods = args.methods.split(",")
  for method in methods:
    if method not in registry.METHODS:
      parser.error(f"no method {method!r}; expected some of {', '.join(registry.METHODS)}")
  for word in args.extra:
    field = word.split("=")[0].removeprefix("--config.")
    made_for = field == "distill.student_nfe" and CHOOSES_STEPS.intersection(methods)
    if made_for or "lora_rank" in field or "learning_rate" in field:
      parser.error(f"{word} is what is chosen here; give --ranks, --rates and --made_for")
    if field in SET_HERE:
      parser.error(f"{word} is set here, and said below the tables; see --help")
  data, results, chosen_with = DATA[args.data], {}, []
  for method in methods:
    try:
      chosen = ready(method, data, args)
      variant = search.folder(method, chosen, args), *search.split(chosen)
      teacher_steps = args.nfe[:1] if results else args.nfe
      results |= students.compare({method: variant}, args.nfe, args, teacher_steps)
      chosen_with += chosen_rows(method, chosen, data, args)
    except config_checks.ConfigError as error:
      print(f"{method}: {error}", flush=True)
    except subprocess.CalledProcessError as error:
      if error.returncode != DIVERGED:
        raise
      print(f"{method}: diverges at what was chosen", flush=True)
  if not results:
    parser.exit(1, "no method has a student\n")
  found = students.summary(results, data.metrics, args.nfe, args)
  students.show(found | {"rows": found["rows"] + chosen_with}, args.out)
  first = data.metrics[0]
  students.plot(students.statistics(results, first, args.nfe), first, args.out / "methods.png")


if __name__ == "__main__":
  main()
