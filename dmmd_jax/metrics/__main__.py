"""Measures anyone's text samples, as tokens: `python -m dmmd_jax.metrics samples.npy --help`."""

import json
import pathlib

import numpy as np

from dmmd_jax import command, records
from dmmd_jax import workdir as workdirs
from dmmd_jax.config import ConfigError

NGRAMS = (2, 4)


def main(argv: list[str] | None = None) -> None:
  parser = command.Parser(
    prog="python -m dmmd_jax.metrics",
    description="Gradient Moment and perplexity of samples under a reference model, and variety.",
  )
  parser.add_argument("samples", help=".npy file, integer tokens [n, D]")
  parser.add_argument(
    "--reference", required=True, help="workdir with a reference model, or a folder with GPT-2"
  )
  parser.add_argument("--data", help=".npy file, real tokens [m, D]; without: uncentred moment")
  parser.add_argument("--batch_size", type=int, default=64, help="minibatch of the moment")
  parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
  args = parser.parse_args(argv)
  if args.batch_size < 1:
    parser.error(f"batch_size is {args.batch_size}; expected at least 1")
  try:
    print(report(args))
  except ValueError as error:
    parser.error(str(error))


def report(args) -> str:
  """The measurements as a table or as JSON. Raises `ValueError` for input that does not fit."""
  samples = load_tokens(args.samples)
  data = load_tokens(args.data) if args.data else None
  if data is not None and data.shape[1] != samples.shape[1]:
    raise ValueError(
      f"samples have {samples.shape[1]} tokens, data {data.shape[1]}; cut them alike"
    )
  model = load_reference(args.reference)
  for name, tokens in (("samples", samples), ("data", data)):
    if tokens is None:
      continue
    if tokens.min() < 0 or tokens.max() >= model.num_categories:
      raise ValueError(
        f"{name} have tokens from {tokens.min()} to {tokens.max()}; the reference model knows 0 to"
        f" {model.num_categories - 1}"
      )
    if tokens.shape[1] > model.length:
      raise ValueError(
        f"{name} have {tokens.shape[1]} tokens; the reference model takes {model.length}"
      )

  samples, data = (None if x is None else x.astype(np.int32) for x in (samples, data))
  from dmmd_jax.metrics import gradient_moment as moments
  from dmmd_jax.metrics import likelihood

  moment = moments.gradient_moment(model.loss, model.params, samples, data, args.batch_size)
  nll = model.nll(samples, args.batch_size)
  measured = {
    "gradient_moment" if data is not None else "uncentred_gradient_moment": moment,
    "perplexity": likelihood.generative_perplexity(nll),
    "unigram_entropy": likelihood.unigram_entropy(samples),
  }
  for n in NGRAMS:
    if n <= samples.shape[1]:
      measured[f"distinct_{n}"] = likelihood.distinct_ngrams(samples, n), None
      measured[f"repeated_{n}"] = likelihood.repeated_ngrams(samples, n), None
  if args.json:
    rows = {name: {"value": value, "stderr": error} for name, (value, error) in measured.items()}
    return json.dumps({"num_samples": len(samples), "metrics": rows}, indent=1)
  lines = [f"{'metric':<28}{'value':>12}{'stderr':>12}"]
  for name, (value, error) in measured.items():
    lines.append(f"{name:<28}{value:>12.5g}{'' if error is None else format(error, '.2g'):>12}")
  return "\n".join([*lines, f"{len(samples)} samples of {samples.shape[1]} tokens"])


def load_tokens(path: str) -> np.ndarray:
  """Tokens `[n, D]`. Raises `ValueError` for anything else."""
  tokens = command.load_array(path)
  if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.shape[1] < 2 or not len(tokens):
    raise ValueError(
      f"{path} has shape {tokens.shape} of {tokens.dtype}; expected integer tokens [n, D], D >= 2"
    )
  return tokens


def load_reference(path: str):
  """The language model in a workdir or a GPT-2 folder. Raises `ValueError` where there is none."""
  command.keep_compiled_programs()
  from dmmd_jax import parallel
  from dmmd_jax.data.alphabets import TextError
  from dmmd_jax.networks.weights import WeightsError
  from dmmd_jax.phases import build, reference

  try:
    if (pathlib.Path(path) / "model.safetensors").is_file():
      return reference.load_gpt2(path)
    source = records.find_model(workdirs.locate(path), "reference")
    return reference.load_trained(source, build.outline(source.config), parallel.make_mesh())
  except (ConfigError, TextError, WeightsError, FileNotFoundError) as error:
    raise ValueError(str(error)) from error


if __name__ == "__main__":
  main()
