"""Phases in a workdir: each runs once, for what it was made from, and says what that was."""

import json
import re
import shutil

import jax
import numpy as np
import pytest

from configs import coins_dmmd
from dmmd_jax import experiment, integrity, parallel, records, report, versions
from dmmd_jax.checkpoints import CheckpointError
from dmmd_jax.config_file import ConfigError
from dmmd_jax.digest import digest
from dmmd_jax.phases import build


def tiny(**overrides):
  """Coins, by the method that compiles soonest."""
  config = coins_dmmd.get_config()
  config.update_from_flattened_dict(
    {
      "run.tensorboard": False, "run.checkpoint_every": 10, "network.width": 16,
      "teacher.num_steps": 20, "teacher.batch_size": 32, "distill.num_steps": 20,
      "distill.batch_size": 32, "distill.method": "kernel_score",
      "evaluate.teacher_nfe": (1,), "evaluate.student_nfe": (1,),
      "evaluate.num_sample_batches": 2, "evaluate.sample_batch_size": 64,
    }
    | {name.replace("__", "."): value for name, value in overrides.items()}
  )  # fmt: skip
  return config


@pytest.fixture(autouse=True, scope="module")
def one_device():
  """For which programs compile sooner."""
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(parallel, "make_mesh", lambda *_: mesh)
    yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
  """A workdir in which all phases are complete."""
  workdir = tmp_path_factory.mktemp("finished")
  experiment.run(tiny(), workdir)
  return workdir


@pytest.fixture
def workdir(finished, tmp_path):
  return shutil.copytree(finished, tmp_path / "run")


def results(workdir):
  return json.loads((workdir / "evaluate" / "results.json").read_text())


def run(capsys, workdir, **overrides):
  """What a run prints: the phases that it finds complete."""
  capsys.readouterr()
  experiment.run(tiny(**overrides), workdir)
  return [line.split(":")[0] for line in capsys.readouterr().out.splitlines() if "complete" in line]


def test_results_say_what_made_them(workdir, capsys):
  assert run(capsys, workdir) == ["teacher", "distill", "evaluate"]
  found = results(workdir)
  assert found["config"]["evaluate"]["num_sample_batches"] == 2 and found["config"]["seed"] == 0
  assert found["made_by"]["jax"] == jax.__version__ and "cpu" in found["made_by"]["device"]
  mesh, dataset = parallel.make_mesh(), build.make_dataset(tiny())
  for name, phase in (("teacher", "teacher"), ("student", "distill")):
    made = found["inputs"][name]
    denoiser = build.make_denoiser(tiny(), dataset, student=name == "student")
    params = build.load_ema(records.find_model(workdir, name), denoiser.init, mesh)
    assert (made["step"], made["digest"]) == (20, digest(params))
    assert made["config"][phase]["num_steps"] == 20
  assert found["inputs"]["student"]["inputs"]["teacher"] == found["inputs"]["teacher"]


def test_an_evaluation_that_was_stopped_is_made_again_with_the_same_rows(
  workdir, capsys, monkeypatch
):
  expected = results(workdir)["rows"]
  with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

    def stop(*_, **__):
      raise KeyboardInterrupt

    patch.setattr(report, "save", stop)
    experiment.run(tiny(evaluate__num_sample_batches=3), workdir)
  # The results of before are still there; they are not those of this config, nor of the last one.
  assert results(workdir)["rows"] == expected
  assert run(capsys, workdir) == ["teacher", "distill"]
  assert results(workdir)["rows"] == expected


def test_a_student_is_not_measured_with_other_noise_than_its_own(workdir):
  only = {"phases": ("evaluate",), "distill__noise_scale": 1.0}
  with pytest.raises(ConfigError, match=r"the student .* \(distill.noise_scale: 60.0 -> 1.0"):
    experiment.run(tiny(**only), workdir)


def test_which_student_is_measured_is_said_where_the_config_says_another(workdir, capsys):
  only = {"phases": ("evaluate",)}
  experiment.run(tiny(**only), workdir)
  assert "other settings" not in capsys.readouterr().out
  experiment.run(tiny(**only, distill__num_steps=7), workdir)
  said = "made by other settings (distill.num_steps: 20 -> 7, its own first)"
  assert said in capsys.readouterr().out
  shutil.rmtree(workdir / "distill")
  experiment.run(tiny(**only), workdir)
  assert "no student in" in capsys.readouterr().out
  assert {row["model"] for row in results(workdir)["rows"]} == {"teacher"}


def test_that_the_code_has_changed_is_said_of_what_is_not_run_again(workdir, capsys, monkeypatch):
  record = integrity.read_json(workdir / "teacher" / "record.json")
  record["made_by"]["commit"] = 40 * "a"
  integrity.write_json(workdir / "teacher" / "record.json", record)
  for now, said in (
    (40 * "a", ""),
    (40 * "b", " (by the code of aaaaaaa; it is now that of bbbbbbb)"),
  ):
    monkeypatch.setattr(versions, "_versions", lambda now=now: {"commit": now})
    experiment.run(tiny(phases=("teacher",)), workdir)
    assert f"teacher: complete in {workdir / 'teacher'}{said}\n" in capsys.readouterr().out


def test_an_unfinished_student_is_measured_where_asked_for_and_said(workdir):
  (workdir / "distill" / "record.json").unlink()
  shutil.rmtree(workdir / "distill" / "checkpoints" / "20")
  experiment.run(tiny(phases=("evaluate",)), workdir, unfinished=True)
  student = results(workdir)["inputs"]["student"]
  assert student["step"] == 10 and not student["finished"] and len(student["digest"]) == 32
  table = (workdir / "evaluate" / "results.md").read_text()
  assert "The student is not finished: measured at step 10." in table


def flip_bits(checkpoint):
  """All over the arrays."""
  for path in checkpoint.glob("default/**/d/*"):
    contents = np.fromfile(path, np.uint8)
    contents[40::97] ^= 1
    contents.tofile(path)


def change_what_is_not_read(checkpoint):
  path = checkpoint / "default" / "_sharding"
  path.write_text(path.read_text()[::-1])


@pytest.mark.parametrize(
  ("phase", "damage", "what"),
  [
    ("teacher", flip_bits, "digest is not|decod"),
    ("distill", change_what_is_not_read, "default/_sharding has been changed"),
  ],
)
def test_a_damaged_model_is_made_again_from_the_checkpoint_before(
  workdir, capsys, phase, damage, what
):
  folder = workdir / phase
  expected, record = results(workdir), integrity.read_json(folder / "record.json")
  damage(folder / "checkpoints" / "20")
  (workdir / "evaluate" / "record.json").unlink()
  experiment.run(tiny(), workdir)
  printed = capsys.readouterr().err
  (line,) = [x for x in printed.splitlines() if x.startswith("dmmd_jax:") and phase in x]
  assert "checkpoint 20 of" in line and "from the checkpoint before" in line
  assert re.search(what, line) and "Traceback" not in printed
  again = integrity.read_json(folder / "record.json")
  assert again["result"].pop("files") and record["result"].pop("files") and again == record
  assert (folder / "damaged" / "20").is_dir() and results(workdir)["rows"] == expected["rows"]


@pytest.mark.parametrize(
  ("method", "section", "noise"),
  [
    ("sdtt", {"rounds": 3, "teacher_nfe": 16}, "none"),
    ("dcd", {"rounds": 3, "teacher_nfe": 16}, "none"),
    ("redi", {"rounds": 3, "num_pairs": 64, "chunk": 64, "nfe": 4}, "gaussian"),
    ("di4c", {"passes": 3, "num_latents": 2}, "latent"),
  ],
)
def test_a_student_of_rounds_that_was_killed_in_one_ends_as_if_not(
  workdir, method, section, noise, capsys
):
  """From the checkpoint in the middle of the last of three rounds."""
  config = tiny(
    phases=("distill",), run__checkpoint_every=5, distill__method=method, distill__noise=noise,
    distill__from_prior=False, distill__student_nfe=2,
  )  # fmt: skip
  config.distill[method] = section
  shutil.rmtree(workdir / "distill")
  record = workdir / "distill" / "record.json"
  digests = []
  for _ in range(2):
    experiment.run(config, workdir)
    digests.append(integrity.read_json(record)["result"]["digest"])
    record.unlink()
    shutil.rmtree(workdir / "distill" / "checkpoints" / "20")
  assert digests[0] == digests[1] and "going on at step 15 of 20" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(workdir):
  shutil.rmtree(workdir / "distill")
  (workdir / "teacher" / "record.json").unlink()
  config = tiny(run__seed=1)
  config_path = workdir / "teacher" / "config.json"
  begun = integrity.read_json(config_path)
  begun["config"]["seed"] = 1
  integrity.write_json(config_path, begun)
  with pytest.raises(CheckpointError, match=r"20 of .* is of another run \(config.seed: 0 -> 1\)"):
    experiment.run(config, workdir)
