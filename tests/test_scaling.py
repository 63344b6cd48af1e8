import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import scaling_report, topologies
from configs import cifar_dmmd, cifar_dmmd_uniform

WITH_LIBTPU = importlib.util.find_spec("libtpu") is not None
SMALL = (
  "--config=configs/text_dmmd.py", "--topology=v5e:2x2", "--program=teacher",
  "--config.network.width=128", "--config.network.depth=2", "--config.teacher.batch_size=32",
)  # fmt: skip


def scaling(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "benchmarks.scaling", *arguments], capture_output=True, text=True
  )


def test_an_unknown_topology_or_a_missing_compiler_is_said_in_a_line():
  found = scaling("--config=configs/coins_dmmd.py", "--topology=v9:4x4")
  assert found.returncode == 2 and "expected such as v5e:4x4" in found.stderr
  found = scaling("--config=configs/coin_dmmd.py")
  assert found.returncode == 2 and "did you mean" in found.stderr
  if not WITH_LIBTPU:
    found = scaling("--config=configs/coins_dmmd.py")
    assert found.returncode == 2 and "make plan" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.skipif(not WITH_LIBTPU, reason="needs the TPU compiler: make plan")
def test_a_small_step_compiled_for_a_tpu():
  found = scaling(*SMALL, "--json")
  (row,) = [json.loads(line) for line in found.stdout.splitlines()]
  assert row["fits"] and row["program"] == "teacher"
  assert 1e-5 < row["seconds"] < 1.0
  assert row["seconds"] == pytest.approx(sum(row["parts"].values()))
  assert row["uncounted_seconds"] >= row["parts"]["collectives"] > 0.0
  assert row["peak_bytes"] > sum(row["held_bytes"].values())
  assert 0.0 < row["peak_flops_share"] < 1.0


def row(program, fits=True, seconds=0.5):
  return {
    "config": "configs/owt_dmmd.py", "topology": "v5e:4x4", "program": program, "jax": "0.10",
    "fits": fits, "peak_bytes": 5 * 10**9 if fits else None, "held_bytes": {"parameters": 10**9},
    "flops": 2e12, "compile_seconds": 9.0, "why": "Used 20G of 15.75G",
    **({"seconds": seconds, "uncounted_seconds": 0.1, "peak_flops_share": 0.25,
        "largest_vocabulary_bytes": 10**6,
        "parts": {"attention": seconds - 0.1, "sorts": 0.1}} if fits else {}),
  }  # fmt: skip


ALL = ("teacher", "distill, joint", "sampler of the teacher", "sampler of the student")


def test_the_document_sums_up_what_the_whole_experiment_takes():
  text = scaling_report.render([row(program) for program in ALL])
  # 1,000,000 steps, 50,000 steps, 32 blocks at 1,008 and 124 NFE in half a second a step or two
  # evaluations, on 16 chips.
  assert "teacher 138.9, distillation 6.9, sampling 2.5" in text
  assert "2,374 device-hours" in text
  assert "| attention, ms | 400 |" in text


def test_what_does_not_fit_is_a_row_and_no_sum():
  rows = [row(program, fits=program != "distill, joint") for program in ALL]
  text = scaling_report.render(rows)
  assert "| fits | yes | no | yes | yes |" in text
  assert "no sum" in text
  assert "does not fit: Used 20G" in scaling_report.text(rows[1])
  noted = scaling_report.render([row("teacher") | {"note": "Of an older commit."}])
  assert "|\n\nOf an older commit." in noted


def test_the_results_of_the_document_are_those_in_the_repository():
  rows = json.loads(scaling_report.RESULTS.read_text(encoding="utf-8"))
  assert scaling_report.DOCUMENT.read_text(encoding="utf-8") == scaling_report.render(rows)


def test_a_recorded_row_takes_the_place_of_its_like(tmp_path, monkeypatch):
  monkeypatch.setattr(scaling_report, "RESULTS", tmp_path / "results.json")
  monkeypatch.setattr(scaling_report, "DOCUMENT", tmp_path / "document.md")
  large = {"overrides": ["--config.network.width=2048"], "commit": "0123456789"}
  for new in (row("teacher"), row("teacher") | large, row("distill"), row("teacher", seconds=0.7)):
    scaling_report.record(new)
  rows = json.loads(scaling_report.RESULTS.read_text())
  found = [(x["program"], x["seconds"], x.get("overrides")) for x in rows]
  assert sorted(found, key=str) == sorted(
    [("teacher", 0.7, None), ("distill", 0.5, None), ("teacher", 0.5, large["overrides"])], key=str
  )
  text = scaling_report.DOCUMENT.read_text()
  assert text.count("**expected, ms**") == 2 and "| **expected, ms** | 700 | 500 |" in text
  assert (
    "On `v5e:4x4` with `network.width=2048`, per chip:" in text and "| commit | 0123456 |" in text
  )


def test_topologies_have_chips():
  assert topologies.chip("v5p:2x4x4") is topologies.CHIPS["v5p"]
  assert topologies.chip("8xH100") is topologies.CHIPS["H100"]
  with pytest.raises(topologies.TopologyError, match="v5e:4x4"):
    topologies.chip("v5e-16")


def test_both_halves_of_the_table_cost_the_same():
  """As docs/scaling.md says, which compiles the first alone."""
  halves = [module.get_config() for module in (cifar_dmmd, cifar_dmmd_uniform)]
  masked, uniform = (
    [
      config.network,
      *(config.teacher[name] for name in ("num_steps", "batch_size", "microbatches")),
      *(config.distill[name] for name in ("num_steps", "batch_size", "updates", "method")),
      config.evaluate,
    ]
    for config in halves
  )
  assert masked == uniform


def test_the_command_of_the_document_exists():
  makefile = pathlib.Path("Makefile").read_text(encoding="utf-8")
  assert "\nplan:" in makefile
