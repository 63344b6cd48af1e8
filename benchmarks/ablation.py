"""What the choices of the kernel score do: `python -m benchmarks.ablation`.

Distils the teacher of a finished `make demo` (`--teacher`) with one choice changed at a time and
several seeds each (a minute a student on two cores), prints a table per metric, measured on the
validation split, and writes `results.json` into `--out`. What is complete there is not run again.
"""

import argparse

from benchmarks import students

STEPS = (1, 2, 4)
SCORE = "configs/digits_kernel.py"
BOTH = ("--config.distill.method=dmmd_kernel", "--config.distill.updates=joint")
WEIGHT = "--config.distill.dmmd_kernel.dmmd_weight"
SCALES = "--config.distill.score.scales="
VARIANTS = {
  "score as it is: whole and windows": (SCORE, []),
  "whole alone": (SCORE, [SCALES + "((0,1,(2.0,8.0,32.0)),)"]),
  "whole alone, h = 8 alone": (SCORE, [SCALES + "((0,1,(8.0,)),)"]),
  "windows alone": (SCORE, [SCALES + "((4,2,(1.0,4.0)),(2,1,(1.0,)))"]),
  "grey levels are equal or not": (SCORE, ["--config.distill.score.category_bandwidth=0.0"]),
  "marginal MMD in place of conditional": (SCORE, ["--config.distill.score.objective=marginal"]),
  "with D-MMD, weight 1": (SCORE, [*BOTH, f"{WEIGHT}=1.0"]),
  "with D-MMD, weight 3": (SCORE, [*BOTH, f"{WEIGHT}=3.0"]),
  "with D-MMD, weight 10": (SCORE, [*BOTH, f"{WEIGHT}=10.0"]),
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  students.add_arguments(parser, out="runs/ablation")
  args = parser.parse_args()
  variants = {name: (str(i), *variant) for i, (name, variant) in enumerate(VARIANTS.items())}
  results = students.compare(variants, STEPS, args)
  metrics = ("frechet", "class_tv", "kernel_mmd")
  students.show(students.summary(results, metrics, STEPS, args), args.out)


if __name__ == "__main__":
  main()
