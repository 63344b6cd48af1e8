"""Measures anyone's text samples, as tokens: `python -m dmmd_jax.metrics samples.npy --help`."""

import json
import os

import numpy as np

from dmmd_jax import cli
from dmmd_jax.data.alphabets import TextError, make_tokenizer
from dmmd_jax.networks.weights import WeightsError

NGRAMS = (2, 4)


def main(argv: list[str] | None = None) -> None:
  parser = cli.Parser(
    "dmmd_jax.metrics",
    "Gradient Moment and perplexity of samples under a reference model, and variety.",
  )
  parser.add_argument("samples", help=".npy or .npz file, integer tokens [n, D]")
  parser.add_argument(
    "--reference", required=True, help="workdir with a reference model, or a folder with GPT-2"
  )
  parser.add_argument(
    "--data", help=".npy or .npz file, real tokens [m, D]; without: uncentred moment"
  )
  parser.add_argument(
    "--batch_size",
    type=cli.number(int, 1, 1_000_000),
    default=64,
    help="minibatch of the moment",
  )
  parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
  args = parser.parse_args(argv)
  try:
    print(report(args))
  except (ValueError, TextError, WeightsError) as error:
    parser.error(str(error))


def report(args) -> str:
  """The measurements as a table or as JSON. Raises `ValueError` for input that does not fit."""
  samples = load_tokens(args.samples)
  data = load_tokens(args.data) if args.data else None
  if data is not None and data.shape[1] != samples.shape[1]:
    raise ValueError(
      f"samples have {samples.shape[1]} tokens, data {data.shape[1]}; cut them alike"
    )
  fewest = min(len(x) for x in (samples, data) if x is not None)
  if fewest < 2 * args.batch_size:
    raise ValueError(
      f"{len(samples)} samples and {'no' if data is None else len(data)} data make no pair of"
      f" minibatches of {args.batch_size}; "
      + (f"expected a --batch_size of at most {fewest // 2}" if fewest > 1 else "give more")
    )
  model = load_reference(args.reference, samples, data)
  samples, data = (None if x is None else x.astype(np.int32) for x in (samples, data))
  from dmmd_jax.metrics import likelihood

  moment = model.gradient_moment(samples, data, args.batch_size)
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
  for name, (value, _) in measured.items():
    if not np.isfinite(value):
      raise ValueError(f"{name} is {value}: the reference model in {args.reference} is damaged")
  if args.json:
    rows = {name: {"value": value, "stderr": error} for name, (value, error) in measured.items()}
    return json.dumps({"num_samples": len(samples), "metrics": rows}, indent=1)
  lines = [f"{'metric':<28}{'value':>12}{'stderr':>12}"]
  for name, (value, error) in measured.items():
    lines.append(f"{name:<28}{value:>12.5g}{'' if error is None else format(error, '.2g'):>12}")
  return "\n".join([*lines, f"{len(samples)} samples of {samples.shape[1]} tokens"])


def load_tokens(path: str) -> np.ndarray:
  """Tokens `[n, D]`. Raises `ValueError` for anything else."""
  tokens = cli.load_array(path)
  if tokens.ndim != 2 or tokens.dtype.kind not in "iu" or tokens.shape[1] < 2 or not len(tokens):
    raise ValueError(
      f"{path} has shape {tokens.shape} of {tokens.dtype}; expected integer tokens [n, D], D >= 2"
    )
  return tokens


def load_reference(path: str, samples: np.ndarray, data: np.ndarray | None):
  """The language model in a workdir or a GPT-2 folder, where it knows the tokens.

  Raises `ValueError` where there is none, or one of other tokens, and `TextError` or
  `WeightsError` where its files are missing or broken.
  """
  cli.keep_compiled_programs()
  path = os.path.expanduser(path)

  def check(num_categories, length):
    for name, tokens in (("samples", samples), ("data", data)):
      if tokens is not None:
        _check_tokens(name, tokens, num_categories, length)

  if os.path.isfile(os.path.join(path, "model.safetensors")):
    from dmmd_jax.phases import reference

    model = reference.load_gpt2(path)
    check(model.num_categories, model.length)
    return model
  source = cli.find_text_model(cli.find_run(path), "reference")
  c = source.config.dataset
  check(make_tokenizer(c.alphabet, c.unknown, c.tokenizer).num_categories, c.length)
  from dmmd_jax import parallel
  from dmmd_jax.phases import build, reference

  return reference.load_trained(source, build.outline(source.config), parallel.make_mesh())


def _check_tokens(name: str, tokens: np.ndarray, num_categories: int, length: int) -> None:
  if tokens.min() < 0 or tokens.max() >= num_categories:
    raise ValueError(
      f"{name} have tokens from {tokens.min()} to {tokens.max()}; the reference model knows 0 to"
      f" {num_categories - 1}"
    )
  if tokens.shape[1] > length:
    raise ValueError(f"{name} have {tokens.shape[1]} tokens; the reference model takes {length}")


if __name__ == "__main__":
  cli.run(main)
