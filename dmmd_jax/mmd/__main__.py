"""MMD^2 between two files of samples: `python -m dmmd_jax.mmd a.npy b.npy --kernel=hamming`."""

import json

import numpy as np

from dmmd_jax import cli

KERNELS = ("hamming", "linear", "ngram", "rbf", "polynomial")
_OF_TOKENS = ("hamming", "linear", "ngram")
_LARGEST_TOKEN = 2**31 - 2  # one more is the number of categories, an int32
_LARGEST_TEST = 2**32  # bytes of permutations


def main(argv: list[str] | None = None) -> None:
  parser = cli.Parser(
    "dmmd_jax.mmd",
    "Maximum Mean Discrepancy between two samples, with standard error and p-value.",
  )
  parser.add_argument("first", help=".npy or .npz file, [n, ...]: integer tokens, or features")
  parser.add_argument("second", help=".npy or .npz file, [m, ...]")
  parser.add_argument(
    "--kernel",
    default="hamming",
    help=f"one or several of {', '.join(KERNELS)}, separated by commas; several are tested jointly",
  )
  parser.add_argument("--estimator", choices=("unbiased", "biased"), default="unbiased")
  parser.add_argument(
    "--permutations",
    type=cli.number(int, 0, 1_000_000),
    default=1000,
    help="of the test; 0 is no test",
  )
  parser.add_argument(
    "--seed", type=cli.number(int, *cli.SEEDS), default=0, help="of the permutations"
  )
  parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
  args = parser.parse_args(argv)
  names = args.kernel.split(",")
  for i, name in enumerate(names):
    if name not in KERNELS:
      parser.error(f"no kernel {name!r}; expected some of {', '.join(KERNELS)}")
    if name in names[:i]:
      parser.error(f"--kernel has {name} twice; expected each kernel once")
  try:
    samples = [load_sample(path, names) for path in (args.first, args.second)]
    print(report(args, names, *samples))
  except ValueError as error:
    parser.error(str(error))


def load_sample(path: str, names: list[str]) -> np.ndarray:
  """A sample `[n, D]`, int32 or float32, that all the kernels take. Raises `ValueError`."""
  sample = cli.load_array(path)
  found = f"{path} is {sample.dtype} {list(sample.shape)}"
  if sample.ndim < 2 or len(sample) < 2 or not sample.size:
    raise ValueError(f"{found}; expected shape [n, ...] with at least 2 items")
  if sample.dtype.kind not in "iuf":
    raise ValueError(f"{found}; expected a dtype of integers or floats")
  sample = sample.reshape(len(sample), -1)
  of_tokens = [name for name in names if name in _OF_TOKENS]
  if of_tokens and sample.dtype.kind == "f":
    raise ValueError(f"{found}; {of_tokens[0]} takes integer tokens: use rbf, or polynomial")
  if of_tokens:
    return _checked_tokens(path, sample)
  with np.errstate(over="ignore"):
    sample = sample.astype(np.float32)
  if not np.isfinite(sample).all():
    raise ValueError(f"{path} has values that are not finite in float32; remove them")
  return sample


def _checked_tokens(path: str, tokens: np.ndarray) -> np.ndarray:
  low, high = int(tokens.min()), int(tokens.max())
  if low < 0:
    raise ValueError(f"{path} has a token {low}; expected none below 0")
  if high > _LARGEST_TOKEN:
    raise ValueError(f"{path} has a token {high}; expected at most {_LARGEST_TOKEN}")
  return tokens.astype(np.int32)


def report(args, names: list[str], x: np.ndarray, y: np.ndarray) -> str:
  """The results as a table or as JSON. Raises `ValueError` for samples that do not go together."""
  if x.shape[1:] != y.shape[1:]:
    raise ValueError(
      f"the samples have items of {x.shape[1]} and {y.shape[1]} numbers; expected equal shapes"
    )
  if (len(x) + len(y)) * (1 + args.permutations) > _LARGEST_TEST:
    raise ValueError(
      f"--permutations={args.permutations} of {len(x) + len(y)} samples take too much memory;"
      f" expected at most {_LARGEST_TEST // (len(x) + len(y)) - 1}"
    )
  from dmmd_jax.mmd import kernels, mmd2, two_sample_test

  by_name = {
    "hamming": kernels.Hamming(),
    "linear": kernels.Linear(),
    "ngram": kernels.NGram(),
    "rbf": kernels.RBF(),
    "polynomial": kernels.Polynomial(),
  }
  chosen = [by_name[name] for name in names]
  test = None
  if args.permutations:
    test = two_sample_test(x, y, chosen, args.permutations, args.seed)
  if test is None or args.estimator == "biased":
    estimates = [mmd2(x, y, kernel, args.estimator) for kernel in chosen]
  else:
    estimates = test.estimates
  for name, estimate in zip(names, estimates, strict=True):
    if not np.isfinite([estimate.value, estimate.stderr]).all():
      raise ValueError(f"the {name} kernel leaves float32; divide the features by their spread")
  p_values = test.p_values if test else [None] * len(names)
  rows = [
    {"kernel": name, "mmd2": e.value, "stderr": e.stderr, "p_value": p}
    for name, e, p in zip(names, estimates, p_values, strict=True)
  ]
  if args.json:
    result = {
      "estimator": args.estimator,
      "num_samples": [len(x), len(y)],
      "permutations": args.permutations,
      "p_value": test.p_value if test else None,
      "kernels": rows,
    }
    return json.dumps(result, indent=1)
  lines = [f"{'kernel':<12}{'MMD^2':>12}{'stderr':>12}{'p-value':>10}"]
  for row in rows:
    p = "" if row["p_value"] is None else f"{row['p_value']:.4f}"
    lines.append(f"{row['kernel']:<12}{row['mmd2']:>12.3e}{row['stderr']:>12.1e}{p:>10}")
  if test and len(names) > 1:
    lines.append(f"{'jointly':<12}{'':>24}{test.p_value:>10.4f}")
  lines.append(f"{len(x)} against {len(y)} samples, {args.estimator}")
  return "\n".join(lines)


if __name__ == "__main__":
  cli.run(main)
