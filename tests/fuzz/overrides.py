"""Wrong overrides of every field of every config, by the kind of its default value."""

import importlib
import pathlib

import numpy as np
from ml_collections import ConfigDict

from tests.fuzz.cases import Case

# But for one that asks for files first.
CONFIGS = sorted(
  path.stem for path in pathlib.Path("configs").glob("*.py") if path.stem != "images_dmmd"
)
SECONDS = 3.0  # of CPU, for a config
HUGE = str(10**30)  # fits no integer of an array
# Any file will do, or none: it is read later, or not at all.
_FREE = {"evaluate.inception", "dataset.path", "dataset.tokenizer"}
# To log, save or keep never, or everything, is somebody's right.
_UNBOUNDED = {"log_every", "checkpoint_every", "keep_checkpoints", "warmup_steps", "num_steps"}
_PROBABILITIES = {"ema", "b1", "b2", "dropout", "label_dropout", "top_p", "teacher_top_p"}
_COUNTS = {
  "num_steps", "batch_size", "microbatches", "heads", "depth", "width", "embed_dim", "student_nfe",
  "log_every", "checkpoint_every", "num_sample_batches", "noise_dim",
}  # fmt: skip
_SCALES = {
  "short": "((0,1),)",
  "empty": "((0,1,()),)",
  "flat": "(0,1,(1.0,))",
  "fraction": "((0.5,1,(1.0,)),)",
  "stride": "((0,0,(1.0,)),)",
  "negative": "((0,1,(-1.0,)),)",
  "string": "((0,1,('a',)),)",
  "huge": f"((0,1,(1.0,)),({HUGE},1,(1.0,)))",
}


def wrong_values(field: str, default) -> dict[str, str]:
  """Values that this field can never have, by the name of what is wrong with them."""
  leaf = field.rpartition(".")[2]
  if isinstance(default, bool):
    return {"text": "maybe", "number": "2", "tuple": "(True,)", "empty": ""}
  if isinstance(default, int):
    wrong = {"text": "many", "fraction": "1.5", "nan": "nan", "inf": "inf", "negative": "-3",
             "tuple": "(1,2)", "empty": "", "huge": HUGE, "zero": "0"}  # fmt: skip
    unfit = {"huge"} if leaf in _UNBOUNDED else set()
    unfit |= set() if leaf in _COUNTS else {"zero"}
    return {name: value for name, value in wrong.items() if name not in unfit}
  if isinstance(default, float):
    wrong = {"text": "many", "nan": "nan", "inf": "inf", "minus inf": "-inf", "negative": "-0.5",
             "tuple": "(1.0,)", "empty": ""}  # fmt: skip
    return wrong | ({"above 1": "1.5", "huge": "1e30"} if leaf in _PROBABILITIES else {})
  if isinstance(default, tuple):
    if leaf == "scales":
      return _SCALES
    return {"empty": "()", "text": "abc", "number": "-3", "nested": "((1,),)", "nan": "(nan,)",
            "negative": "(-5,)", "fraction": "(1.5,)", "string": "('a',)",
            "huge": f"({HUGE},{HUGE})"}  # fmt: skip
  if field in _FREE:
    return {}
  if field == "dataset.name":
    return {"misspelt": f"{default}x", "empty": ""}
  if default:
    return {"misspelt": f"{default}x", "empty": "", "upper": default.upper(), "number": "3"}
  return {"absent": "{folder}/absent"}


def combinations(config: ConfigDict) -> dict[str, dict[str, str]]:
  """Overrides that are fine one by one, and make no sense together."""
  text, name = "reference" in config, config.dataset.name
  shape = len(config.dataset.get("shape", (8, 8, 1) if name == "digits" else (1,)))
  uvit, score = config.network.name == "uvit", config.distill.method == "kernel_score"
  uniform = {"process.name": "uniform", "distill.method": "dmmd"}
  hard = uniform | {"distill.dmmd.auxiliary_target": "hard"}
  found = {
    "heads": {"network.width": "100", "network.heads": "7"},
    "guidance": hard | {"network.classes": "False", "distill.guidance": "2.0"},
    "one sample": {"evaluate.sample_batch_size": "1"},
    "microbatches": {"teacher.batch_size": "64", "teacher.microbatches": "7"},
    "soft target": uniform | {"distill.dmmd.auxiliary_target": "soft"},
    "elbo": hard | {"distill.dmmd.weight": "elbo", "teacher.loss": "bound"},
    "bound": hard | {"distill.dmmd.loss": "bound", "teacher.loss": "cross_entropy"},
    "temperature": hard
    | {"distill.dmmd.loss": "bound", "teacher.loss": "bound", "distill.temperature": "0.5"},
    "no teacher": {"phases": "('distill',)"},
    "mesh": {"run.mesh": "(3,5,7)"},
    "two rests": {"run.mesh": "(-1,-1,1)"},
  }
  if score or config.distill.method == "dmmd_kernel":
    found["one noise"] = {"distill.score.objective": "conditional", "distill.score.num_noises": "1"}
    found["window"] = {"distill.score.scales": "((99999,1,(1.0,)),)"}
  if not uvit:
    found["patch"] = {"network.patch": "97"}
  if shape == 1:
    found["pyramid"] = {"distill.noise": "pyramid"}
    found["network of images"] = {"network.name": "uvit"}
    found["classes"] = {"network.classes": "True"}
    found["even window"] = {"network.conv": "4"}
    found["block"] = {"network.block": "97"}
  if text:
    found["not its bytes"] = {"dataset.alphabet": "printable", "reference.gpt2": "{folder}"}
  else:
    found["no text"] = {"phases": "('reference',)"}
  if name not in ("coins", "mixture"):
    found["not known"] = {"distill.teacher": "exact"}
  if config.distill.teacher != "exact":
    found["nothing to measure"] = {"phases": "('evaluate',)"}
  return found


def _flags(rng: np.random.Generator) -> Case:
  """A command line whose flags are wrong, whatever the config."""
  digits = "--config=configs/digits_dmmd.py"
  found = [
    ((), "--config"),
    (("--config=",), "config"),
    (("--config=configs",), "configs"),
    (("--config=configs/absent.py",), "absent.py"),
    (("--config={folder}",), "config"),
    ((digits, "--confg=1"), "confg"),
    ((digits, "stray", "words"), "stray"),
    ((digits, "--workdr={folder}"), "workdr"),
    ((digits, "--config.teacher"), "teacher"),
  ]
  args, mention = found[rng.integers(len(found))]
  return Case("flags", args, (mention,), seconds=SECONDS)


def _config_file(rng: np.random.Generator) -> Case:
  texts = ("x = 1\n", "def get_config(:\n", "", "import absent\n", "\0", "get_config = 3\n")
  text = texts[rng.integers(len(texts))]
  return Case(
    "config file",
    ("--config={folder}/config.py",),
    ("config.py", "absent"),
    make=lambda folder: (folder / "config.py").write_text(text),
    seconds=SECONDS,
  )


def _flat(config: ConfigDict, prefix: str = "") -> dict[str, object]:
  """All fields by their whole name; those of presets are fields of what they set."""
  found = {}
  for name, value in config.items():
    if isinstance(value, ConfigDict):
      found |= _flat(value, f"{prefix}{name}.") if name != "presets" else {}
    else:
      found[prefix + name] = value
  return found


def _misspelt(field: str, fields: dict, rng: np.random.Generator) -> str:
  """The field with a letter left out, doubled, or out of its turn."""
  at = int(rng.integers(len(field.rpartition(".")[0]) + 1, len(field) - 1))
  found = [field[:at] + field[at + 1 :], field[:at] + field[at] + field[at:],
           field[:at] + field[at + 1] + field[at] + field[at + 2 :]]  # fmt: skip
  found = [name for name in found if name not in fields]
  return found[rng.integers(len(found))]


def draw(rng: np.random.Generator) -> Case:
  """A wrong command line: most often one override of one field of one config."""
  pick = lambda items: list(items)[rng.integers(len(items))]
  kind = pick(["value"] * 10 + ["twice", "misspelt", "section", "below", "together", "together"]
              + ["flags", "config file"])  # fmt: skip
  if kind in ("flags", "config file"):
    return {"flags": _flags, "config file": _config_file}[kind](rng)
  name = pick(CONFIGS)
  config = importlib.import_module(f"configs.{name}").get_config()
  fields = _flat(config)
  if kind == "together":
    what, overrides = pick(combinations(config).items())
    args = [f"--config.{field}={value}" for field, value in overrides.items()]
    mentions = tuple(field.rpartition(".")[2] for field in overrides)
    mentions += ("no trained teacher", "no reference") if "phases" in overrides else ()
    kind = f"together: {what}"
  else:
    by_type = {type(default): [] for default in fields.values()}  # there are few tuples and bools
    for field, default in fields.items():
      by_type[type(default)] += [field] if wrong_values(field, default) else []
    field = pick(by_type[pick(by_type)])
    what, value = pick(wrong_values(field, fields[field]).items())
    mentions = (field.rpartition(".")[2],)
    args = [f"--config.{field}={value}"]
    if kind == "value":
      kind = f"{type(fields[field]).__name__}: {what}"
    elif kind == "twice":
      given = fields[field]
      args.insert(0, f"--config.{field}={given}")
    elif kind == "misspelt":
      wrong = _misspelt(field, fields, rng)
      args, mentions = [f"--config.{wrong}={fields[field]}"], (wrong.rpartition(".")[2],)
    elif kind == "below":
      args = [f"--config.{field}.x=1"]
    else:
      section = pick([s for s in fields if "." in s]).rpartition(".")[0]
      args, mentions = [f"--config.{section}={pick(['3', '(1,2)', 'none'])}"], (section,)
  return Case(kind, (f"--config=configs/{name}.py", *args), mentions, seconds=SECONDS)
