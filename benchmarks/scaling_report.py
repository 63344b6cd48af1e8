"""What `benchmarks.scaling` found, as lines and as docs/scaling.md."""

import importlib
import json
import pathlib

from benchmarks import topologies

DOCUMENT = pathlib.Path("docs/scaling.md")
RESULTS = pathlib.Path("docs/results/scaling.json")


def text(row: dict) -> str:
  """A row for the terminal."""
  head = f"{row['config']} on {row['topology']}: {row['program']}"
  compiled = f"compiled in {row['compile_seconds']:.0f} s"
  held = ", ".join(f"{part} {n / 1e9:.2f}" for part, n in row["held_bytes"].items() if n)
  if row["peak_bytes"] is None:
    return f"{head}\n  does not fit: {row['why']}\n  GB held: {held}; {compiled}"
  fits = "fits" if row["fits"] else "does not fit"
  lines = [
    head,
    f"  {fits}: {row['peak_bytes'] / 1e9:.2f} GB at its peak, of which {held}; {compiled}",
    f"  largest array with a vocabulary axis: {row['largest_vocabulary_bytes'] / 1e6:.0f} MB",
  ]
  if "seconds" in row:
    lines += [
      f"  {milliseconds(row['seconds'])} ms expected, {row['peak_flops_share']:.0%} of the peak,"
      f" of which {milliseconds(row['uncounted_seconds'])} ms are estimates of our own",
      *(f"    {milliseconds(x):>8} ms {part}" for part, x in row["parts"].items() if x),
    ]
  for x in row.get("operations", ()):
    where = f"{x['part']}: {x['kind']} {' '.join(x['results'])} {x['name'][-90:]}"
    lines.append(f"    {milliseconds(x['seconds']):>8} ms in {x['runs']:.0f}, {where}")
  return "\n".join(lines)


def milliseconds(seconds: float) -> str:
  return f"{1e3 * seconds:,.1f}" if seconds < 0.1 else f"{1e3 * seconds:,.0f}"


def record(row: dict) -> None:
  """Puts a row into docs/results, where it takes the place of its like, and into the document."""
  rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else []
  by_place = {(_group(other), other["program"]): other for other in rows}
  by_place[_group(row), row["program"]] = row
  rows = list(by_place.values())
  RESULTS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
  DOCUMENT.write_text(render(rows), encoding="utf-8")


def render(rows: list[dict]) -> str:
  parts = []
  for config in dict.fromkeys(row["config"] for row in rows):
    parts.append(f"## `{config}`")
    for group in dict.fromkeys(_group(row) for row in rows if row["config"] == config):
      alike = [row for row in rows if _group(row) == group]
      _, topology, overrides = group
      given = ", ".join(f"`{x.removeprefix('--config.')}`" for x in overrides)
      given = f" with {given}" if given else ""
      parts += [f"On `{topology}`{given}, per chip:", _table(alike)]
      if not overrides:
        parts.append(_whole(alike))
  return _DOCUMENT.format(jax=rows[0]["jax"], tables="\n\n".join(parts))


def _group(row: dict) -> tuple[str, str, tuple[str, ...]]:
  """What the rows of one table have in common."""
  return row["config"], row["topology"], tuple(row.get("overrides", ()))


def _table(rows: list[dict]) -> str:
  parts = dict.fromkeys(part for row in rows for part, x in row.get("parts", {}).items() if x)
  giga = lambda n: "" if n is None else f"{n / 1e9:.2f}"
  share = lambda row: f"{row['peak_flops_share']:.0%}" if "seconds" in row else ""
  lines = [
    ["", *(row["program"] for row in rows)],
    ["---", *["---:"] * len(rows)],
    ["fits", *("yes" if row["fits"] else "no" for row in rows)],
    ["memory at its peak, GB", *(giga(row["peak_bytes"]) for row in rows)],
    ["held between steps, GB", *(giga(sum(row["held_bytes"].values())) for row in rows)],
    ["TFLOP", *(f"{row['flops'] / 1e12:.2f}" for row in rows)],
    ["**expected, ms**", *(_milli(row.get("seconds")) for row in rows)],
    ["share of the peak", *(share(row) for row in rows)],
    *([f"{part}, ms", *(_milli(row.get("parts", {}).get(part)) for row in rows)] for part in parts),
    ["commit", *((row.get("commit") or "")[:7] for row in rows)],
  ]
  notes = dict.fromkeys(row["note"] for row in rows if "note" in row)
  return "\n".join([*(f"| {' | '.join(line)} |" for line in lines), *(f"\n{x}" for x in notes)])


def _milli(seconds: float | None) -> str:
  return milliseconds(seconds) if seconds else ""


def _whole(rows: list[dict]) -> str:
  """Device-hours of the whole experiment, by the programs that fit."""
  config = importlib.import_module(_module(rows[0]["config"])).get_config()
  found = {row["program"]: row["seconds"] for row in rows if row["fits"] and "seconds" in row}
  distillation = [x for name, x in found.items() if name.startswith("distill")]
  sampled = [f"sampler of the {name}" for name in ("teacher", "student")]
  if not all(row["fits"] for row in rows):
    return "A program of it does not fit: no sum."
  if "teacher" not in found or not distillation or not set(sampled) <= set(found):
    return "No sum of the whole of it: not all of its programs were compiled."
  evaluate = config.evaluate
  nfe = sum(evaluate.teacher_nfe), sum(evaluate.student_nfe)
  hours = {
    "teacher": config.teacher.num_steps * found["teacher"] / 3600,
    "distillation": config.distill.num_steps * min(distillation) / 3600,
    "sampling": sum(
      evaluate.num_sample_batches * total * found[name] / 2 / 3600
      for total, name in zip(nfe, sampled, strict=True)
    ),
  }
  count = _count(rows[0]["topology"])
  told = ", ".join(f"{name} {x:,.1f}" for name, x in hours.items())
  num_samples = evaluate.num_sample_batches * evaluate.sample_batch_size
  return (
    f"The whole of it, in hours: {told}; {count * sum(hours.values()):,.0f} device-hours. (The"
    f" faster of the distillations, {num_samples:,} samples at each NFE.)"
  )


def _module(path: str) -> str:
  return ".".join(pathlib.Path(path).with_suffix("").parts)


def _count(topology: str) -> int:
  topologies.chip(topology)
  if topology.endswith("xH100"):
    return int(topology.split("x")[0])
  count = 1
  for side in topology.split(":")[1].split("x"):
    count *= int(side)
  return count


_DOCUMENT = """# On accelerators

What the full-scale programs take on accelerators that we do not have, by the account of their
compilers, which run without one. Nothing here is measured. Written with jax {jax} by

    make plan
    .venv-plan/bin/python -m benchmarks.scaling

and not to be edited by hand. For a config, topology and fields of your own, and for a comparison
of two commits:

    .venv-plan/bin/python -m benchmarks.scaling --config=configs/owt_dmmd.py --topology=v5p:2x4x4 \\
        --program=distill --config.distill.batch_size=512 --against=HEAD~1

**Memory** is what the compiled program needs at its peak. *Held between steps* are parameters,
moments of gradients, the average and the frozen teacher.

**Time** is the sum of the cycles that the compiler expects of each operation, in a loop as often
as it runs. It expects none of sorts, kernels of Pallas and collectives: those rows are rooflines of
our own, of the bytes that they move and, for kernels, of their FLOPs at the peak. Copies that the
compiler makes while something else is computed are not counted. Such times are good for comparing
two versions of a program; a real step may be slower or faster. The compiler of GPUs says nothing of
time.

**FLOPs** are those of matrix products and convolutions at a device's share of the batch, with what
remat computes again, counted in the jaxpr. The peak is that of bfloat16, as published for
[v5e](https://cloud.google.com/tpu/docs/v5e), [v5p](https://cloud.google.com/tpu/docs/v5p) and
[v6e](https://cloud.google.com/tpu/docs/v6e).

A sampler's row is one batch of samples in two evaluations. Not counted anywhere: reading data,
checkpoints, compilation, FID, preemptions, the latency of collectives.
`configs/cifar_dmmd_uniform.py` has the network, batches and steps of `configs/cifar_dmmd.py`, and
costs the same.

**CIFAR-10's steps are at 25 to 29 % of the peak.** With 16 images a chip the optimiser and the sum
of the gradients take 15 of the teacher's 82 ms, however few images there are, and elementwise
operations and copies 31. Moments and average split over the chips (ZeRO-1) take 1.8 GB in place of
3.3, and no less time: 83 ms, for what the optimiser gains, 7 ms, it takes to gather the parameters;
116 ms where the compiler is left to sum the gradients piece by piece in its matrix products. On 8
chips, of 32 images each, the teacher is at 26 %: its attention takes four times as long for twice
the images, which is where to look next.

{tables}
"""
