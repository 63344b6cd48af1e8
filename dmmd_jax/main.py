"""Runs the phases of an experiment: `python -m dmmd_jax.main --config=configs/digits_dmmd.py`.

Heavy packages are imported only after the config has been checked.
"""

import pathlib
import sys
import traceback

from absl import app, flags, logging
from ml_collections import config_flags

from dmmd_jax import config as config_checks
from dmmd_jax import records
from dmmd_jax import workdir as workdirs
from dmmd_jax.command import keep_compiled_programs

_CONFIG = config_flags.DEFINE_config_file(
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


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax and orbax tell at length about what is normal
  if len(argv) > 1:
    _exit(f"unexpected arguments {argv[1:]}; options begin with --")
  if _CONFIG.value is None:
    _exit("no --config; try --config=configs/digits_dmmd.py")
  config = _CONFIG.value
  name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
  given = config_flags.get_override_values(flags.FLAGS["config"])
  try:
    config_checks.apply_preset(config, given)
    config_checks.check(config)
    workdir = workdirs.locate(_WORKDIR.value or f"runs/{name}", write=True)
    records.check(config, workdir, _UNFINISHED.value)
    keep_compiled_programs()
    import jax

    from dmmd_jax import hosts

    hosts.join()
    config_checks.check_devices(config, jax.device_count())
  except (config_checks.ConfigError, OSError) as error:  # OSError: no such config file
    _exit(str(error))

  from dmmd_jax import experiment, training
  from dmmd_jax.data.alphabets import TextError
  from dmmd_jax.data.images import ImageError
  from dmmd_jax.networks.weights import WeightsError

  try:
    experiment.run(config, workdir, _UNFINISHED.value)
  except config_checks.ConfigError as error:
    _exit(str(error))
  except (TextError, ImageError, WeightsError) as error:
    _exit(str(error))
  except training.NonFiniteError as error:
    _exit(str(error), 1)
  except training.StoppedError as error:
    _exit(str(error), 143)
  except jax.errors.JaxRuntimeError as error:
    if jax.process_count() == 1:
      raise
    hosts.leave(f"another one seems to be lost ({str(error).splitlines()[0][:200]})")
  except Exception as error:
    if jax.process_count() == 1:
      raise
    traceback.print_exc()
    hosts.leave(f"{type(error).__name__}, see above")  # the others would wait for it


def parse(argv: list[str]) -> list[str]:
  """Parses flags; a bad one ends the program in one line, with exit code 2."""
  try:
    return flags.FLAGS(argv)
  except (AttributeError, KeyError) as error:
    field = str(error).strip("'\"")
    given = [arg for arg in argv if field in arg] or [field]
    _exit(f"no such field: {', '.join(given)}; the config file lists and explains them all")
  except (flags.Error, TypeError, ValueError, OSError) as error:
    _exit(str(error))


def _exit(message: str, code: int = 2) -> None:
  print("dmmd_jax:", " ".join(message.split()), file=sys.stderr)
  sys.exit(code)


if __name__ == "__main__":
  app.run(main, flags_parser=parse)
