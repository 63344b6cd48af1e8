"""All kinds of cases, and how many were answered well: `python -m tests.fuzz --cases=500`."""

import argparse
import collections
import json
import pathlib
import sys
import tempfile
import time

from tests.fuzz.fuzzer import Fuzzer, shares


def main() -> None:
  parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
  parser.add_argument("--cases", type=int, default=500)
  parser.add_argument("--seed", type=int, default=0)
  parser.add_argument("--only", choices=("config", "file", "damage"))
  parser.add_argument("--case", type=int, help="run this one alone, and show all that it says")
  parser.add_argument("--json", type=pathlib.Path, help="write what was found into this file")
  args = parser.parse_args()
  cases = [(what, i) for what, n in shares(args.cases).items() for i in range(n)]
  cases = [(what, i) for what, i in cases if args.only in (None, what)]
  cases = [(what, i) for what, i in cases if args.case in (None, i)]
  start, found = time.monotonic(), []
  with tempfile.TemporaryDirectory() as folder, Fuzzer(pathlib.Path(folder), args.seed) as fuzzer:
    for what, i in cases:
      began = time.monotonic()
      answer = fuzzer.case(what, i)
      record = {"what": what, "case": i, **answer, "wall": round(time.monotonic() - began, 2)}
      found.append(record)
      if answer["complaints"] or args.case is not None:
        print(f"{what} {i} [{answer['kind']}] {answer['command']}")
        print(f"    {'; '.join(answer['complaints']) or 'fine'}: {answer['said']}", flush=True)
  if args.json:
    args.json.write_text(json.dumps(found, indent=1) + "\n")
  print(summary(found))
  print(f"{len(found)} cases, seed {args.seed}, {time.monotonic() - start:.0f} s")
  sys.exit(1 if any(record["complaints"] for record in found) else 0)


def summary(found: list[dict]) -> str:
  """A row per kind: cases, those with complaints, and the complaints."""
  by_kind = collections.defaultdict(list)
  for record in found:
    by_kind[record["what"], record["kind"].split(":")[0]].append(record)
  lines = [f"{'kind':<34}{'cases':>6}{'bad':>6}{'wall':>8}"]
  for (what, kind), records in sorted(by_kind.items()):
    bad = [record for record in records if record["complaints"]]
    wall = sum(record["wall"] for record in records)
    told = collections.Counter(c.split(" names none")[0] for r in bad for c in r["complaints"])
    told = ", ".join(f"{number} {name}" for name, number in told.most_common())
    lines.append(f"{what + ' ' + kind:<34}{len(records):>6}{len(bad):>6}{wall:>7.1f}s  {told}")
  return "\n".join(lines)


if __name__ == "__main__":
  main()
