"""Converts teachers of others, and back: `python -m dmmd_jax convert ~/mdlm-owt --workdir=…`."""

import pathlib
import tempfile

from dmmd_jax import cli
from dmmd_jax import workdir as workdirs
from dmmd_jax.config import ConfigError
from dmmd_jax.networks.weights import WeightsError

# In the place of a source: a tiny teacher with random weights, to try a config with.
_RANDOM = "random"
_FORMATS = ("workdir", "safetensors")


def main(argv: list[str] | None = None) -> None:
  parser = make_parser()
  args = parser.parse_args(argv)
  try:
    print(export(args) if args.to == "safetensors" else convert(args))
  except (ValueError, ConfigError, WeightsError) as error:
    parser.error(str(error))


def make_parser() -> cli.Parser:
  parser = cli.Parser(
    "dmmd_jax.convert",
    "Takes a teacher that others have trained into a run, or writes a model in their format.",
  )
  add = parser.add_argument
  add("source", help="a folder, .safetensors, .ckpt or state dict; random; with --to a workdir")
  add("--workdir", help="to make a run of: a folder, or gs://bucket/folder")
  add("--kind", help="mdlm, sedd, duo, bd3lm, llada, dream; default: as its config.json says")
  add("--weights", choices=("ema", "raw"), default="ema", help="of a .ckpt; default: ema, if any")
  add("--tokenizer", default="", help="folder with tokenizer.json, or vocab.json and merges.txt")
  add("--length", type=cli.number(int, 4, 2**20), help="tokens of a text; default: the config's")
  add("--block", type=cli.number(int, 1, 2**20), help="tokens of a block, if no config.json says")
  add("--to", choices=_FORMATS, default="workdir", help="safetensors: the way back")
  add(
    "--model", choices=("teacher", "student"), default="teacher", help="with --to: which to write"
  )
  add("--out", help="with --to: the folder to write")
  return parser


def convert(args) -> str:
  """Makes a workdir, and says in one line what is in it. Raises for whatever cannot be converted.

  `ValueError`, `ConfigError` or `WeightsError`, of which each says so in one line.
  """
  if not args.workdir:
    raise ValueError("there is no --workdir; name the folder of the run to make")
  if args.out or args.model != "teacher":
    raise ValueError("--out and --model go with --to=safetensors; leave them out, or add it")
  path = pathlib.Path(args.source).expanduser()
  if args.source != _RANDOM and not path.exists():
    raise ValueError(
      f"{path} does not exist; expected a folder as on the Hugging Face hub, or a file"
    )
  workdir = workdirs.locate(args.workdir, write=True)
  _prepare()
  from dmmd_jax import hosts, parallel
  from dmmd_jax.teachers.convert import convert as convert_source
  from dmmd_jax.teachers.kinds import KINDS, recognise
  from dmmd_jax.teachers.tensors import open_source

  if args.kind not in (None, *KINDS):
    raise ValueError(f"--kind is {args.kind!r}; expected one of {', '.join(KINDS)}")
  hosts.join()
  with tempfile.TemporaryDirectory() as made:
    if args.source == _RANDOM:
      path = pathlib.Path(made)
      make_random(args.kind, path)
    source = open_source(path, args.weights)
    kind = args.kind or recognise(path, source)
    config = config_of(args, kind, source)
    with hosts.hold(workdir):
      mesh = parallel.make_mesh(tuple(config.run.mesh))
      number = convert_source(config, kind, source, args.source, workdir, mesh)
  return (
    f"{workdir / 'teacher'}: {kind}, {number:,} parameters; distil it with --config="
    f"{KINDS[kind].config} --workdir={args.workdir}"
  )


def config_of(args, kind: str, source):
  """The config of the teacher: that of its kind, with the sizes of the source and the options."""
  from dmmd_jax.teachers.convert import make_config
  from dmmd_jax.teachers.kinds import KINDS

  sizes = KINDS[kind].sizes(source, kind)
  if kind == "bd3lm":
    sizes["block"] = args.block or sizes.get("block")
    if not sizes["block"]:
      raise ValueError("nothing says how many tokens a block has; give --block")
  elif args.block:
    raise ValueError(f"--block is given; a teacher of kind {kind} has no blocks: leave it out")
  overrides = {"preset": "smoke"} if args.source == _RANDOM else {}
  if args.length or "model_length" in source.config:
    overrides["dataset.length"] = args.length or source.config["model_length"]
  if args.tokenizer:
    overrides["dataset.tokenizer"] = args.tokenizer
  return make_config(kind, sizes, overrides)


def make_random(kind: str | None, folder: pathlib.Path) -> None:
  """Writes a teacher of the sizes of a config's preset `smoke`, in the format of its kind."""
  from dmmd_jax.teachers.random_teacher import write

  if not kind:
    raise ValueError(f"the source is {_RANDOM} and there is no --kind; give one")
  write(kind, folder)


def export(args) -> str:
  """Writes a model of a run, and says in one line where. Raises `ValueError` for what cannot be."""
  if not args.out or args.workdir:
    raise ValueError(
      "with --to=safetensors the source is a workdir; expected --out=FOLDER beside it"
    )
  out = pathlib.Path(args.out).expanduser()
  if out.exists():
    raise ValueError(f"--out is {out}, which exists; name a new folder")
  if not out.absolute().parent.is_dir():
    raise ValueError(f"--out is {out}; there is no folder {out.parent}: make it first")
  source = cli.find_model(cli.find_run(args.source), args.model)
  _prepare()
  from dmmd_jax import parallel
  from dmmd_jax.checkpoints import CheckpointError
  from dmmd_jax.phases import build
  from dmmd_jax.teachers.convert import make_denoiser
  from dmmd_jax.teachers.export import folder_of_teacher, kind_of, write

  kind = kind_of(source)
  denoiser, mesh = make_denoiser(source.config), parallel.make_mesh()
  try:
    if args.model == "student":
      student = make_denoiser(source.config, student=True)
      params = build.load_student(source, student, denoiser, mesh)
    else:
      params = build.load_ema(source, denoiser.init, mesh)
  except CheckpointError as error:
    raise ValueError(str(error)) from error
  size = write(out, source, params, folder_of_teacher(source))
  return f"{out}: {args.model} of kind {kind}, {size / 1e6:,.1f} MB"


def _prepare() -> None:
  """What commands do before they import jax."""
  cli.keep_compiled_programs()
  cli.hide_logs_of_libraries()


if __name__ == "__main__":
  cli.run(main)
