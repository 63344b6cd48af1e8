"""Runs the phases of an experiment: `python -m dmmd_jax.main --config=configs/digits_dmmd.py`.

Heavy packages are imported only after the config has been checked.
"""

from dmmd_jax import signals

if __name__ == "__main__":  # before all that takes a while
  signals.end_in_one_line("dmmd_jax", "; the same command goes on from the last checkpoint")

import contextlib
import importlib
import pathlib
import sys
import traceback

from absl import app, flags, logging
from etils import epath
from ml_collections import config_flags

from dmmd_jax import config as config_checks
from dmmd_jax import storage
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


def main(argv: list[str]) -> None:
  logging.set_verbosity(logging.WARNING)  # jax and orbax tell at length about what is normal
  # What fails in the threads of orbax is raised here, too.
  logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
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
    workdirs.check(config, workdir)
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
    _run(config, name, workdir)


def _run(config, name: str, workdir: epath.Path) -> None:
  """Runs the phases; whatever may be expected to go wrong ends in one line."""
  import jax

  from dmmd_jax import hosts, training
  from dmmd_jax.checkpoints import CheckpointError
  from dmmd_jax.data.alphabets import TextError
  from dmmd_jax.data.images import ImageError
  from dmmd_jax.networks.weights import WeightsError

  try:
    _run_phases(config, name, workdir)
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


def _run_phases(config, name: str, workdir: epath.Path) -> None:
  import jax

  from dmmd_jax import parallel
  from dmmd_jax.phases import build

  dataset = build.make_dataset(config)
  mesh = parallel.make_mesh(tuple(config.run.mesh))
  processes = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
  backend = jax.default_backend()
  print(f"{name}: {jax.device_count()} {backend} device(s){processes}, workdir {workdir}")
  for phase in config.phases:
    if workdirs.is_complete(config, workdir, phase):
      print(f"{phase}: complete in {workdir / phase}")
      continue
    if jax.process_index() == 0:
      workdirs.record(config, workdir, phase)
    importlib.import_module(f"dmmd_jax.phases.{phase}").run(config, dataset, workdir, mesh)


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
