"""Runs the phases of an experiment: `python -m dmmd_jax.main --config=configs/digits_dmmd.py`.

Heavy packages are imported only after the config has been checked.
"""

from dmmd_jax import heap, signals

if __name__ == "__main__":  # before all that takes a while, or starts threads
  heap.keep_freed_memory()
  signals.end_in_one_line("dmmd_jax", "; the same command goes on from the last checkpoint")

import contextlib
import itertools
import pathlib
import sys
import traceback
from typing import NoReturn

from absl import app, flags, logging
from etils import epath

from dmmd_jax import (
  cli,
  config_devices,
  config_file,
  config_settings,
  image_size,
  listing,
  records,
  storage,
)
from dmmd_jax import config as config_checks
from dmmd_jax import workdir as workdirs
from dmmd_jax.fields import FIELDS

_CONFIG = flags.DEFINE_string(
  "config",
  None,
  "Experiment: a name or a file; without a value, the list of names and fields. Override with"
  " --config.section.field=value; --config=NAME --help shows all values.",
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder, or gs://bucket/folder, for all that a run leaves; default runs/<name of the config>.",
)

_UNFINISHED = flags.DEFINE_boolean(
  "unfinished", False, "Use a teacher or student whose own phase has not finished as it is."
)

_ALONE, _HELP = {"-config", "--config"}, {"-h", "-help", "--help"}


def main(overrides: dict[str, str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax and orbax tell at length about what is normal
  # What fails in the threads of orbax is raised here, too.
  logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
  sys.stdout.reconfigure(line_buffering=True)  # in order with what goes to standard error
  if not _CONFIG.value:
    _exit("no --config; try --config=digits_dmmd, or --config alone for a list")
  name = pathlib.Path(_CONFIG.value.partition(":")[0]).stem
  try:
    config, given = config_file.load(_CONFIG.value, overrides)
    image_size.settle(config, given)
    config_checks.check(config, given)
    config_checks.require(
      _WORKDIR.value != "", "--workdir is empty, as of a variable that is not set; give a folder"
    )
    name = _WORKDIR.value or f"runs/{name}"
    config_devices.check_workdir(config, name)
    workdir = workdirs.locate(name, write=True)
    records.check(config, workdir, _UNFINISHED.value)
    cli.keep_compiled_programs()
    cli.hide_logs_of_libraries()
    import jax

    from dmmd_jax import hosts

    hosts.join()
    with contextlib.ExitStack() as stack:
      stack.enter_context(hosts.hold(workdir))
      config_devices.check_devices(config, jax.device_count())
      running = stack.pop_all()
  except (config_checks.ConfigError, OSError) as error:  # OSError: no such config file
    _exit(str(error))
  with running:
    _run(config, workdir)


def _run(config, workdir: epath.Path) -> None:
  """Runs the phases; whatever may be expected to go wrong ends in one line."""
  import jax

  from dmmd_jax import experiment, hosts, training
  from dmmd_jax.checkpoints import CheckpointError
  from dmmd_jax.data.alphabets import TextError
  from dmmd_jax.data.images import ImageError
  from dmmd_jax.networks.weights import WeightsError
  from dmmd_jax.training_log import DIVERGED, NonFiniteError

  try:
    experiment.run(config, workdir, _UNFINISHED.value)
  except config_checks.ConfigError as error:
    _exit(str(error))
  except (TextError, ImageError, WeightsError, CheckpointError) as error:
    _exit(str(error))
  except NonFiniteError as error:
    _exit(str(error), DIVERGED)
  except training.StoppedError as error:
    _exit(str(error), 128 + error.number)
  except Exception as error:
    trouble = storage.trouble(error, workdir)
    if jax.process_count() > 1:
      # The others would wait for this one.
      if isinstance(error, jax.errors.JaxRuntimeError):
        trouble = f"another one seems to be lost ({str(error).splitlines()[0][:200]})"
      elif not trouble:
        traceback.print_exc()
        trouble = f"{type(error).__name__}, see above"
      hosts.leave(trouble)
    if trouble:
      signals.end(f"dmmd_jax: {trouble}", 1)  # orbax would try once more to save
    raise


def parse(argv: list[str]) -> dict[str, str]:
  """Parses flags, and returns the texts of `--config.field=text` by their fields.

  `--config` without a value and `--help` are answered, which ends the program; a bad flag ends it
  in one line, with exit code 2.
  """
  try:
    argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    overrides, others = config_file.split(argv)
    if any(a in _ALONE and b.startswith("-") for a, b in itertools.pairwise([*others, "-"])):
      _answer(listing.everything())
    helps = _HELP & set(others)
    strays = flags.FLAGS([argument for argument in others if argument not in helps])[1:]
    if helps and _CONFIG.value:
      config, given = config_file.load(_CONFIG.value, overrides)
      if config.preset != image_size.AUTO:  # which depends on images, and these may not be there
        config_checks.apply_preset(config, given)
      config_settings.complete(config)
      _answer(listing.of_config(config))
  except flags.UnrecognizedFlagError as error:
    _exit(f"unknown flag --{error.flagname}{_flag_meant(error.flagname)}")
  except (flags.Error, config_checks.ConfigError, OSError, UnicodeDecodeError) as error:
    _exit(str(error))
  if helps:
    _answer(f"{__doc__.splitlines()[0]}\n{flags.FLAGS.main_module_help()}")
  if strays:
    _exit(f"unexpected arguments {' '.join(strays)}; options begin with --")
  return overrides


def _flag_meant(name: str) -> str:
  """The end of a message about an unknown flag: a field without `--config.`, or a flag like it."""
  fields = {name, name.partition(".")[2]} & FIELDS.keys()
  if fields:
    return f"; did you mean --config.{fields.pop()}?"
  return config_file.nearest_of(f"--{name}", ("--config", "--workdir", "--unfinished", "--help"))


def _answer(text: str) -> NoReturn:
  cli.run(lambda: print(text))
  sys.exit(0)


def _exit(message: str, code: int = 2) -> NoReturn:
  print("dmmd_jax:", cli.one_line(message), file=sys.stderr)
  sys.exit(code)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
