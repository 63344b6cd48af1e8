"""MMD^2 between two files of samples: `python -m dmmd_jax.mmd a.npy b.npy --kernel=hamming`."""

import json

import numpy as np

from dmmd_jax import command

KERNELS = ("hamming", "linear", "ngram", "rbf", "polynomial")


def main(argv: list[str] | None = None) -> None:
  parser = command.Parser(
    prog="python -m dmmd_jax.mmd",
    description="Maximum Mean Discrepancy between two samples, with standard error and p-value.",
  )
  parser.add_argument("first", help=".npy file, [n, ...]: integer tokens, or features")
  parser.add_argument("second", help=".npy file, [m, ...]")
  parser.add_argument(
    "--kernel",
    default="hamming",
    help=f"one or several of {', '.join(KERNELS)}, separated by commas; several are tested jointly",
  )
  parser.add_argument("--estimator", choices=("unbiased", "biased"), default="unbiased")
  parser.add_argument("--permutations", type=int, default=1000, help="of the test; 0 is no test")
  parser.add_argument("--seed", type=int, default=0, help="of the permutations")
  parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
  args = parser.parse_args(argv)
  names = args.kernel.split(",")
  unknown = [name for name in names if name not in KERNELS]
  if unknown:
    parser.error(f"no kernel {unknown[0]!r}; expected some of {', '.join(KERNELS)}")
  try:
    first, second = command.load_array(args.first), command.load_array(args.second)
    print(report(args, names, first, second))
  except ValueError as error:
    parser.error(str(error))


def report(args, names: list[str], x: np.ndarray, y: np.ndarray) -> str:
  """The results as a table or as JSON."""
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
  main()
