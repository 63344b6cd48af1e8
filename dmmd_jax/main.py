"""Runs the phases of an experiment: `python -m dmmd_jax.main --config=configs/digits_dmmd.py`.

Heavy packages are imported only after the config has been checked.
"""

from dmmd_jax import signals

if __name__ == "__main__":  # before all that takes a while
  signals.end_in_one_line("dmmd_jax", "; the same command goes on from the last checkpoint")

import contextlib
import pathlib
import sys
import traceback

from absl import app, flags, logging
from etils import epath

from dmmd_jax import config as config_checks
from dmmd_jax import config_file, records, storage
from dmmd_jax import workdir as workdirs
from dmmd_jax.command import keep_compiled_programs, one_line

_CONFIG = flags.DEFINE_string(
  "config", None, "Experiment, a file of configs/; override with --config.section.field=value."
)
_WORKDIR = flags.DEFINE_string(
  "workdir",
  None,
  "Folder, or gs://bucket/folder, for all that a run leaves; default runs/<name of the config>.",
)

_UNFINISHED = flags.DEFINE_boolean(
  "unfinished", False, "Use a teacher or student whose own phase has not finished as it is."
)


def main(overrides: dict[str, str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax and orbax tell at length about what is normal
  # What fails in the threads of orbax is raised here, too.
  logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
  if not _CONFIG.value:
    _exit("no --config; try --config=configs/digits_dmmd.py")
  name = pathlib.Path(_CONFIG.value.partition(":")[0]).stem
  try:
    config, given = config_file.load(_CONFIG.value, overrides)
    config_checks.settle(config, given)
    config_checks.check(config)
    workdir = workdirs.locate(_WORKDIR.value or f"runs/{name}", write=True)
    records.check(config, workdir, _UNFINISHED.value)
    keep_compiled_programs()
    import jax

    from dmmd_jax import hosts

    hosts.join()
    with contextlib.ExitStack() as stack:
      stack.enter_context(hosts.hold(workdir))
      config_checks.check_devices(config, jax.device_count())
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

  try:
    experiment.run(config, workdir, _UNFINISHED.value)
  except config_checks.ConfigError as error:
    _exit(str(error))
  except (TextError, ImageError, WeightsError, CheckpointError) as error:
    _exit(str(error))
  except training.NonFiniteError as error:
    _exit(str(error), 1)
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

  A bad flag ends the program in one line, with exit code 2.
  """
  try:
    argv = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    overrides, others = config_file.split(argv)
    strays = flags.FLAGS(others)[1:]
  except (flags.Error, config_checks.ConfigError, OSError, UnicodeDecodeError) as error:
    _exit(str(error))
  if strays:
    _exit(f"unexpected arguments {' '.join(strays)}; options begin with --")
  return overrides


def _exit(message: str, code: int = 2) -> None:
  print("dmmd_jax:", one_line(message), file=sys.stderr)
  sys.exit(code)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
