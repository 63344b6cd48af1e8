"""Draws samples from a trained model: `python -m dmmd_jax sample --workdir=runs/text_dmmd`."""

import argparse
import contextlib
import dataclasses
import functools
import sys
from collections.abc import Callable

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from dmmd_jax import cli, config_settings, sample_files
from dmmd_jax.config import ConfigError, example_shape
from dmmd_jax.config_file import nearest_of
from dmmd_jax.config_network import check_guidance
from dmmd_jax.data.alphabets import TextError, make_tokenizer
from dmmd_jax.diffusion import registry
from dmmd_jax.records import Source
from dmmd_jax.rules import Rule
from dmmd_jax.sample_files import Samples

# How many are drawn unless the command line says.
_NUM = {"images": 64, "texts": 1, "sequences": 16}
_TEACHER_NFE = 16


def main(argv: list[str] | None = None) -> None:
  parser = make_parser()
  args, rest = parser.parse_known_args(argv)
  of_sampler = make_settings_parser(args.sampler if rest else "")
  if strays := of_sampler.parse_known_args(rest)[1]:
    parser.error(f"unrecognized arguments: {' '.join(strays)}{_meant(strays[0], args.sampler)}")
  args.settings = vars(of_sampler.parse_args(rest))
  try:
    workdir = cli.find_run(args.workdir)
    args.model = args.model or ("student" if (workdir / "distill").exists() else "teacher")
    source = cli.find_model(workdir, args.model, args.unfinished)
    if args.nfe is None:
      args.nfe = source.config.distill.student_nfe if args.model == "student" else _TEACHER_NFE
    kind = kind_of(source.config)
    check(args, source.config, kind)
    check_sampler(args, source.config)
    prompt = encode_prompt(source.config.dataset, args.prompt) if kind == "texts" else None
    out = find_output(args, workdir, kind)
    draw(args, source, kind, prompt, out)
  except (ValueError, TextError, ConfigError) as error:
    parser.error(str(error))


def make_parser() -> cli.Parser:
  number = cli.number
  parser = cli.Parser("dmmd_jax.sample", "Draws samples from the model of a run.")
  add = parser.add_argument
  add("--workdir", required=True, help="of a run: a folder, or gs://bucket/folder")
  add("--model", choices=("student", "teacher"), help="default: student if any")
  add("--num", type=number(int, 1, 1_000_000), help="default: 1 text, 64 images, 16 sequences")
  add("--nfe", type=number(int, 1, 100_000), help="steps, of every block; default: those that the"
      f" student is made for, {_TEACHER_NFE} of a teacher")  # fmt: skip
  add("--seed", type=number(int, *cli.SEEDS), default=0, help="default: 0")
  # Beyond these float32 knows neither the probabilities nor their order.
  add("--temperature", type=number(float, 1e-6, 10**6), default=1.0, help="default: 1")
  add("--top_p", type=number(float, 1e-6, 1), default=1.0, help="of every token; default: 1")
  add("--sampler", choices=registry.SAMPLERS, default="ancestral", help="default: ancestral; its"
      " settings are options, too, such as --sampler=remdm --eta=.02")  # fmt: skip
  add("--grid", choices=registry.GRIDS[:-1], default="even", help="of times; default: even")
  add("--last_step", choices=("drawn", "greedy"), default="drawn", help="default: drawn")
  add("--prompt", default="", help="how the texts begin")
  add("--label", type=number(int, 0, 10**6), help="one class for all; default: all in turns")
  add("--guidance", type=number(float, 0, 100), default=0.0, help="of a teacher")
  add(
    "--out", metavar="FILE", help="x.png: a grid of images; x.npz: their tokens; x.txt: texts or"
    " sequences. Default: images go to sample.png of the workdir, all else is printed",
  )  # fmt: skip
  add("--batch", type=number(int, 1, 10**6), help="examples at once, which changes none of them")
  add("--unfinished", action="store_true", help="use a model still in training")
  return parser


def make_settings_parser(sampler: str) -> cli.Parser:
  """The settings of a sampler as options; without a name there are none."""
  parser = cli.Parser("dmmd_jax.sample", f"Settings of the sampler {sampler}.")
  for field in dataclasses.fields(registry.find(sampler)) if sampler else ():
    if rule := field.metadata.get("rule"):
      parser.add_argument(
        f"--{field.name}",
        type=functools.partial(_read, rule),
        default=argparse.SUPPRESS,
        help=field.metadata["doc"],
      )
  return parser


def _meant(stray: str, sampler: str) -> str:
  """The end of a message about an unknown option: settings of samplers that it may be."""
  name = stray.lstrip("-").partition("=")[0]
  names = {s: [f.name for f in dataclasses.fields(registry.find(s))] for s in registry.SAMPLERS}
  having = [f"--sampler={s}" for s in names if name in names[s]]
  if having:
    return f"; {name} is a setting of {' and '.join(having)}"
  return nearest_of(f"--{name}", [f"--{known}" for known in names[sampler]])


def _read(rule: Rule, text: str) -> object:
  value = rule.read(text)
  if not rule.accepts(value):
    raise argparse.ArgumentTypeError(f"found {text!r}; expected {rule}")
  return value


def kind_of(config) -> str:
  """What a run is on: images, texts, or other sequences."""
  if "alphabet" in config.dataset:
    return "texts"
  return "images" if len(example_shape(config)) == 3 else "sequences"


def check(args, config, kind: str) -> None:
  """Raises `ValueError` or `ConfigError` for options that the model of a run has no use for."""
  knows_classes = config.network.get("classes")
  if args.label is not None and not knows_classes:
    raise ValueError("--label is given; the network of this run knows no classes")
  if args.guidance and args.model == "student":
    raise ValueError(
      "--guidance is given; a student has that of its distillation: leave it out, or use"
      " --model=teacher"
    )
  if args.guidance:
    check_guidance(config, example_shape(config))
  if args.prompt and kind != "texts":
    raise ValueError(f"--prompt is given; this is a run on {config.dataset.name}, not on text")


def check_sampler(args, config) -> None:
  """Raises `ConfigError` for a sampler that the model of a run cannot be sampled by."""
  how = args.sampler, args.settings, config, example_shape(config), args.last_step
  config_settings.check_sampler(*how)
  if args.model == "student":
    chosen = args.sampler, args.grid, args.last_step
    config_settings.require_common_sampler(config.distill.method, *chosen)


def find_output(args, workdir: epath.Path, kind: str) -> epath.Path | None:
  """The file to write; None is the terminal. Raises `ValueError` where it cannot be written."""
  args.num = args.num or _NUM[kind]
  name = args.out or (str(workdir / "sample.png") if kind == "images" else "")
  if not name:
    return None
  out = cli.find_output(name, sample_files.ENDINGS[kind], kind)
  if out.suffix.lower() == ".png" and args.num > sample_files.MOST_IN_GRID:
    raise ValueError(
      f"--num is {args.num}; a grid takes at most {sample_files.MOST_IN_GRID} images: use"
      " --out=x.npz"
    )
  return out


def encode_prompt(dataset, prompt: str) -> np.ndarray:
  """Tokens `[n]` of a prompt for a run on the text `dataset` of a config.

  Raises `ValueError` for one that the model cannot go on from.
  """
  tokenizer = make_tokenizer(dataset.alphabet, dataset.unknown, dataset.tokenizer)
  if any("\ud800" <= x <= "\udfff" for x in prompt):
    raise ValueError("the prompt is not UTF-8; expected text in the encoding of this terminal")
  tokens = tokenizer.encode(prompt)
  if prompt.strip() and not tokenizer.decode(tokens).strip():
    raise ValueError(
      f"the alphabet {dataset.alphabet!r} has none of the characters of the prompt; expected some"
    )
  if len(tokens) >= dataset.length:
    raise ValueError(
      f"the prompt has {len(tokens)} tokens, a whole text {dataset.length}; shorten it"
    )
  return tokens


def draw(
  args, source: Source, kind: str, prompt: np.ndarray | None, out: epath.Path | None
) -> None:
  """Draws samples, and prints or writes them. Raises `ValueError` for what the model cannot do."""
  cli.keep_compiled_programs()
  cli.hide_logs_of_libraries()
  from dmmd_jax import drawing
  from dmmd_jax.phases.build import make_sampling

  how = {"grid": args.grid, "times": (), "last_step": args.last_step, args.sampler: args.settings}
  sampling = make_sampling(ConfigDict(how), args.sampler)
  with contextlib.redirect_stdout(sys.stderr):  # samples alone are the output
    model = drawing.load(source, args.model == "student", args.guidance, sampling)
  labels = _labels(args, model.denoiser.num_classes, source.config.dataset.name)
  steps = model.num_steps(args.nfe)
  settings = steps, args.temperature, args.top_p, model.sampler
  if kind == "texts":
    decode = model.dataset.tokenizer.decode
    stream = drawing.make_stream(model.denoiser, prompt, *settings)
    if args.num == 1 and not out:
      for block in stream(model.params, drawing.example_keys(args.seed, 0, 1)):
        print(decode(block[0]), end="", flush=True)
      print()
      return
    draw_some = lambda params, keys, _: np.concatenate([*stream(params, keys)], 1)
  else:
    decode = lambda tokens: " ".join(map(str, tokens))
    draw_some = drawing.make_draw(model.denoiser, *settings)
  batches = drawing.draw_batches(model, draw_some, args.seed, labels, args.batch)
  if out is None:
    rows = (row for tokens in batches for row in tokens)
    for line in sample_files.lines(kind, rows, decode, args.num):
      print(line, flush=True)
    return
  nfe = model.denoiser.evaluations(steps)
  about = {"model": args.model, "steps": steps, "nfe": nfe, "seed": args.seed}
  about |= {"sampler": repr(sampling)} if model.sampler is sampling else {}
  about |= {"labels": labels} if model.denoiser.num_classes else {}
  about |= {"digest": source.digest} if source.digest else {}
  tokens = np.concatenate([*batches])
  may_stop = model.sampler is sampling and sampling.sampler.is_adaptive
  samples = Samples(kind, tokens, model.dataset.num_categories, about)
  _write(out, samples, decode, "at most " if may_stop else "")


def _write(
  out: epath.Path, samples: Samples, decode: Callable[[np.ndarray], str], most: str = ""
) -> None:
  try:
    sample_files.save(out, samples, decode)
  except OSError as error:
    raise ValueError(f"cannot write {out} ({error.strerror})") from error
  about = samples.about
  what = f"{len(samples.tokens)} {samples.kind} of the {about['model']}"
  print(f"{out}: {what}, {most}{about['nfe']} NFE, seed {about['seed']}")


def _labels(args, num_classes: int, dataset: str) -> np.ndarray:
  """The class int32 `[num]` of every example: all in turns, or the one that was asked for."""
  if args.label is None:
    return (np.arange(args.num) % max(num_classes, 1)).astype(np.int32)
  if args.label >= num_classes:
    raise ValueError(f"--label is {args.label}; {dataset} has the classes 0 to {num_classes - 1}")
  return np.full(args.num, args.label, np.int32)


if __name__ == "__main__":
  cli.run(main)
