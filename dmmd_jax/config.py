"""Checks of a config, before anything is written. Pure Python, but for method and samplers, last.

What one field may be is in `fields.py`; here is what fields mean together.
"""

import importlib.util
import itertools
from collections.abc import Iterable

from ml_collections import ConfigDict

from dmmd_jax import config_settings
from dmmd_jax.config_devices import check_devices
from dmmd_jax.config_file import (
  ConfigError,
  apply_preset,
  check_fields,
  has,
  nearest_of,
  require,
  shown,
)
from dmmd_jax.config_network import check_network
from dmmd_jax.fields import FIELDS, PHASES

__all__ = ["PHASES", "ConfigError", "apply_preset"]  # for others to have from here

DATASETS = {"digits": (8, 8, 1), "coins": (2,), "mixture": (12,), "hmm": ()}  # shapes
# Data whose distribution is known exactly; hmm has dataset.length tokens.
_EXACT = ("coins", "mixture", "hmm")
TEXTS = ("english", "textfile", "chats", "text8", "lm1b", "openwebtext")  # of dataset.length tokens
# Any other name, where dataset.shape says what an image is like, is one of data/images.py.


def example_shape(config: ConfigDict) -> tuple[int, ...]:
  """Shape of one example of the data set."""
  dataset = config.dataset
  if dataset.name in (*TEXTS, "hmm"):
    return (dataset.length,)
  return DATASETS.get(dataset.name) or dataset.shape


def check(config: ConfigDict, given: Iterable[str] = ()) -> None:
  """Completes a config by the settings of its method and samplers; `given` are set by hand.

  Raises `ConfigError` for values out of range and for combinations that make no sense.
  """
  check_fields(config)
  _check_dataset(config)
  _check_presence(config)
  _check_phases(config.phases)
  _check_tensorboard(config)
  _check_profile(config.run.profile)
  check_network(config, example_shape(config), config.dataset.name not in (*TEXTS, *_EXACT))
  _check_evaluation(config)
  _check_distillation(config)
  check_devices(config)
  config_settings.check(config, example_shape(config), given)


def _check_dataset(config: ConfigDict) -> None:
  dataset, is_text = config.dataset, config.dataset.name in TEXTS
  require(
    is_text or dataset.name in DATASETS or (dataset.name and "shape" in dataset),
    f"dataset.name is {shown(dataset.name)}; expected one of {', '.join((*DATASETS, *TEXTS))};"
    " for images of tensorflow-datasets or your own start from configs/cifar_dmmd.py"
    f"{nearest_of(dataset.name, (*DATASETS, *TEXTS))}",
  )
  require(
    not is_text or "reference" in config,
    f"dataset.name is {shown(dataset.name)}, a text; start from configs/text_dmmd.py",
  )
  require(
    is_text or "reference" not in config.phases,
    f"phases has 'reference', a model of text, and dataset.name is {shown(dataset.name)}",
  )
  require(
    dataset.name not in ("npz", "folder", "textfile", "chats") or dataset.get("path"),
    f"dataset.name is {shown(dataset.name)} and dataset.path is ''; name the file or folder",
  )
  require(
    is_text or dataset.name in DATASETS or dataset.shape,
    "dataset.shape is (), and was not read from the files; expected (height, width, channels)",
  )
  wraps = dataset.get("wrap", False)
  require(
    not wraps or dataset.get("alphabet") == "gpt2",
    "dataset.wrap is True; only texts of byte pairs have <|endoftext|>: set it to False",
  )
  if not is_text:
    return
  require(
    dataset.name != "chats" or "chat" in dataset,
    "dataset.name is 'chats', and there is no dataset.chat; start from configs/llada_dmmd.py",
  )
  block = config.network.get("block", 0)
  require(
    dataset.name != "chats" or not block,
    f"dataset.name is 'chats' and network.block is {block}; blocks are sampled without prompts:"
    " set it to 0",
  )
  byte_pairs, alphabet = dataset.get("alphabet") == "gpt2", dataset.get("alphabet")
  require(
    alphabet not in ("gpt2", "file") or dataset.get("tokenizer"),
    f"dataset.alphabet is {shown(alphabet)} and dataset.tokenizer is ''; name a folder with"
    " tokenizer.json, or vocab.json and merges.txt",
  )
  require(
    byte_pairs or not config.reference.get("gpt2"),
    f"reference.gpt2 is set and dataset.alphabet is {shown(dataset.get('alphabet'))}; GPT-2 reads"
    " only its own byte pairs: use dataset.alphabet='gpt2', or train a reference",
  )


def _check_presence(config: ConfigDict) -> None:
  """What only some networks or data sets have is there for these; networks have no other's."""
  network, data = config.network.name, config.dataset.name
  data = data if data in DATASETS else "texts" if data in TEXTS else "images"
  special = {name: field.kinds for name, field in FIELDS.items() if field.kinds}
  missing = [n for n, kinds in special.items() if {network, data} & {*kinds} and not has(config, n)]
  require(
    not missing,
    f"the config has no {', '.join(missing)}, which {network} or {data} need; start from a config"
    " of configs/ that has it",
  )
  there = [n for n in special if n.startswith("network.") and has(config, n)]
  others = [n for n in there if network not in special[n]]
  require(not others, f"{network} has no {', '.join(others)}; leave it out, or change network.name")


def _check_phases(phases: tuple[str, ...]) -> None:
  """A phase comes after those that it uses."""
  uses = {"distill": ("teacher",), "evaluate": ("teacher", "reference", "distill")}
  for i, phase in enumerate(phases):
    late = [used for used in uses.get(phase, ()) if used in phases[i:]]
    require(not late, f"phases has {phase!r} before {' and '.join(late)}; expected it after")


def _check_tensorboard(config: ConfigDict) -> None:
  trains = {"teacher", "reference", "distill"} & {*config.phases}
  needed = ("clu", "tensorboard", "tensorflow") if config.run.tensorboard and trains else ()
  missing = [name for name in needed if not importlib.util.find_spec(name)]
  require(
    not missing,
    f"run.tensorboard is True and {', '.join(missing)} cannot be imported; install it, or set"
    " run.tensorboard=False",
  )


def _check_profile(steps: tuple[int, ...]) -> None:
  require(
    not steps or steps[0] <= steps[1],
    f"run.profile is {shown(steps)}; expected the first and the last step, in this order",
  )


def _check_evaluation(config: ConfigDict) -> None:
  require(
    config.evaluate.sample_batch_size != 1,
    "evaluate.sample_batch_size is 1; expected 0 (the held-out split) or >= 2",
  )
  times, is_own = config.evaluate.times, config.evaluate.grid == "own"
  require(
    is_own or not times,
    f"evaluate.times is {shown(times)} and evaluate.grid is {shown(config.evaluate.grid)}; times"
    " are those of the grid own",
  )
  falls = all(later < earlier for earlier, later in itertools.pairwise(times))
  require(
    not is_own or (times and falls and (times[0], times[-1]) == (1, 0)),
    f"evaluate.times is {shown(times)}; expected falling numbers, the first 1 and the last 0",
  )
  shape = example_shape(config)
  require(
    not config.evaluate.get("inception") or (len(shape) == 3 and shape[2] in (1, 3)),
    f"evaluate.inception is set and examples are {shape}; FID is for images of 1 or 3 channels:"
    " set it to ''",
  )


def _check_distillation(config: ConfigDict) -> None:
  distill = config.distill
  images = len(example_shape(config)) == 3
  require(
    distill.noise != "pyramid" or images,
    f"distill.noise is 'pyramid' but {config.dataset.name} are sequences; use 'gaussian'",
  )
  require(
    distill.teacher != "exact" or config.dataset.name in _EXACT,
    f"distill.teacher is 'exact' but the joint distribution of {config.dataset.name} is not known;"
    " use 'network'",
  )
  require(
    distill.teacher != "exact" or not max(distill.guidance, config.evaluate.teacher_guidance),
    "guidance is above 0 with distill.teacher 'exact'; only a network is guided: set it to 0, or"
    " distill.teacher to 'network'",
  )
  require(
    not distill.from_prior or distill.student_nfe == 1,
    f"distill.from_prior is True and distill.student_nfe {distill.student_nfe}; a student that sees"
    " t = 1 alone is one of a single step: set distill.student_nfe=1, or from_prior=False",
  )
  require(
    distill.updates != "joint" or distill.auxiliary_updates == 1,
    f"distill.updates is 'joint' and distill.auxiliary_updates {distill.auxiliary_updates}; both"
    " networks are updated once from one evaluation: set it to 1, or updates='alternate'",
  )
