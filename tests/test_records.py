"""A result is complete for exactly what it was made from, and for nothing else."""

import json
import re

import pytest

from configs import cifar_dmmd, coins_dmmd, digits_dmmd, text_dmmd, toy_dmmd
from dmmd_jax import integrity, nested, records
from dmmd_jax.config import ConfigError
from dmmd_jax.fields import ADDED, RENAMED


def make(module, **overrides):
  config = module.get_config()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config


def digits(**overrides):
  return make(digits_dmmd, **overrides)


def text(**overrides):
  return make(text_dmmd, **overrides)


def leave(config, workdir, phase, finished=True, digest="d", **sources):
  """What `phase` leaves behind in a workdir, without running it."""
  folder = workdir / phase
  now = records.depends(config, phase, sources or records.find_sources(config, workdir, phase))
  records.begin(folder, now)
  if phase == "evaluate":
    names = ["results.json", "results.md"]
    for name in names:
      (folder / name).write_text("{}\n")
    result = {"files": integrity.by_contents(folder, names)}
  else:
    part = f"checkpoints/{config[phase].num_steps}"
    (folder / part).mkdir(parents=True)
    (folder / part / "array").write_text("values")
    files = integrity.by_size(folder, part)
    result = {"step": config[phase].num_steps, "digest": digest, "files": files}
  if finished:
    records.finish(folder, now, result, "cpu")
  return folder


def is_complete(config, workdir, phase):
  sources = records.find_sources(config, workdir, phase)
  return records.is_complete(workdir / phase, records.depends(config, phase, sources))


def whole(tmp_path, config):
  for phase in config.phases:
    leave(config, tmp_path, phase)
  assert all(is_complete(config, tmp_path, phase) for phase in config.phases)
  return tmp_path


def test_a_phase_is_complete_for_what_it_was_made_from(tmp_path):
  whole(tmp_path, digits())
  for other in (digits(run__log_every=7), digits(run__mesh=(1, -1, 1))):  # change no result
    assert all(is_complete(other, tmp_path, phase) for phase in other.phases)
  records.check(digits(distill__num_steps=7, phases=("teacher",)), tmp_path)  # not the teacher's


def test_data_may_be_moved_and_not_changed(tmp_path):
  """As a fingerprint tells; the path is in the record of the teacher that a student was of, too."""
  here, there = (text(dataset__name="textfile", dataset__path=path) for path in ("a", "/b"))
  data = {"data": records.Source(None, {"fingerprint": "f"})}
  for phase in here.phases:
    leave(here, tmp_path, phase, **records.find_sources(here, tmp_path, phase), **data)
  records.check(there, tmp_path)
  for phase in there.phases:
    sources = records.find_sources(there, tmp_path, phase)
    assert records.is_complete(tmp_path / phase, records.depends(there, phase, sources | data))
  data["data"].identity["fingerprint"] = "g"
  for phase in there.phases:
    now = records.depends(there, phase, records.find_sources(there, tmp_path, phase) | data)
    assert not records.is_complete(tmp_path / phase, now)
    if phase != "evaluate":
      with pytest.raises(ConfigError, match=r"other data or models .data.fingerprint: f -> g"):
        records.require_unchanged(tmp_path / phase, now)


@pytest.mark.parametrize(
  "overrides",
  [
    {"evaluate__num_sample_batches": 5},
    {"evaluate__teacher_temperature": 0.5},
    {"evaluate__student_sampler": "remdm"},
    {"evaluate__grid": "cosine"},
    {"network__dtype": "bfloat16"},
    {"run__seed": 1},
  ],
  ids=lambda o: next(iter(o)),
)
def test_what_changes_an_evaluation_has_it_made_again(tmp_path, overrides):
  whole(tmp_path, digits())
  assert not is_complete(digits(**overrides), tmp_path, "evaluate")


def test_a_run_of_before_fields_were_renamed_is_complete(tmp_path):
  whole(tmp_path, digits())
  old_names = {new: old for old, new in RENAMED.items()}
  for path in [*tmp_path.glob("*/config.json"), *tmp_path.glob("*/record.json")]:
    integrity.write_json(path, nested.renamed(integrity.read_json(path), old_names))
  assert '"steps"' in (tmp_path / "distill" / "config.json").read_text()
  assert '"block_size"' in (tmp_path / "evaluate" / "record.json").read_text()
  config = digits()
  records.check(config, tmp_path)
  assert all(is_complete(config, tmp_path, phase) for phase in config.phases)


def test_a_run_of_before_there_was_a_field_is_complete(tmp_path):
  whole(tmp_path, digits())
  assert ADDED
  for path in [*tmp_path.glob("*/config.json"), *tmp_path.glob("*/record.json")]:
    text = json.dumps(integrity.read_json(path))
    for field, value in ADDED.items():
      name = field.rpartition(".")[2]
      text = re.sub(rf'(, )?"{name}": {json.dumps(value)}(?(1)|, )', "", text)
      assert f'"{name}"' not in text
    integrity.write_json(path, json.loads(text))
  config = digits()
  records.check(config, tmp_path)
  assert all(is_complete(config, tmp_path, phase) for phase in config.phases)
  changed = digits(distill__lora_rank=3)
  with pytest.raises(ConfigError, match="lora_rank: 0 -> 3"):
    records.check(changed, tmp_path)
  changed.distill.lora_rank = 0
  changed.teacher.optimizer.moments = "factored"
  with pytest.raises(ConfigError, match="moments: float32 -> factored"):
    records.check(changed, tmp_path)


def trained_on(phase):
  def change(workdir):
    record = integrity.read_json(workdir / phase / "record.json")
    step = record["result"]["step"] + 1
    (workdir / phase / "checkpoints" / str(step)).mkdir()
    record["result"] = {"step": step, "digest": "e", "files": {}}
    integrity.write_json(workdir / phase / "record.json", record)

  return change


def trained_anew(phase):
  def change(workdir):
    record = integrity.read_json(workdir / phase / "record.json")
    record["result"]["digest"] = "e"
    integrity.write_json(workdir / phase / "record.json", record)

  return change


def cut(name):
  def change(workdir):
    path = workdir / "evaluate" / name
    path.write_text(path.read_text()[:-2])

  return change


def edited(workdir):
  (workdir / "evaluate" / "results.md").write_text("[]\n")


def killed(workdir):
  config = digits()
  now = records.depends(config, "evaluate", records.find_sources(config, workdir, "evaluate"))
  records.begin(workdir / "evaluate", now)


@pytest.mark.parametrize(
  "change",
  [trained_on("distill"), trained_anew("distill"), cut("results.json"), cut("record.json"), edited,
   killed],
  ids=["student_trained_on", "another_student", "results_cut", "record_cut", "table_edited",
       "killed"],
)  # fmt: skip
def test_an_evaluation_of_something_else_or_half_of_one_is_not_complete(tmp_path, change):
  change(whole(tmp_path, digits()))
  assert not is_complete(digits(), tmp_path, "evaluate")


@pytest.mark.parametrize("change", [trained_on("teacher"), trained_anew("teacher")])
def test_a_student_is_not_measured_beside_a_teacher_that_did_not_teach_it(tmp_path, change):
  config = digits(phases=("evaluate",))
  change(whole(tmp_path / "run", digits()))
  own = tmp_path / "own"
  leave(digits(), own, "teacher")
  with pytest.raises(ConfigError, match=r"another teacher than that in .*run/teacher"):
    records.check(config, tmp_path / "run")
  config.distill.teacher_workdir = str(own)
  records.check(config, tmp_path / "run")


def test_an_evaluation_is_made_again_when_a_student_appears(tmp_path):
  config = digits(phases=("teacher", "evaluate"))
  whole(tmp_path, config)
  leave(digits(), tmp_path, "distill")
  assert not is_complete(config, tmp_path, "evaluate")


def test_that_other_data_or_models_are_no_other_config_is_said(tmp_path):
  leave(digits(), tmp_path, "teacher")
  leave(digits(), tmp_path, "distill", finished=False)
  trained_anew("teacher")(tmp_path)
  with pytest.raises(ConfigError, match="distill was begun with other data or models"):
    records.check(digits(), tmp_path)
  with pytest.raises(ConfigError, match=r"begun with another config .distill.num_steps"):
    records.check(digits(distill__num_steps=9), tmp_path)


def test_a_student_of_another_teacher_is_not_gone_on_with(tmp_path):
  leave(digits(), tmp_path, "teacher")
  leave(digits(), tmp_path, "distill", finished=False)
  records.check(digits(), tmp_path)
  trained_anew("teacher")(tmp_path)
  with pytest.raises(ConfigError, match=re.escape("teacher.digest: d -> e")):
    records.check(digits(), tmp_path)


def test_a_training_phase_goes_on_only_as_it_was_begun(tmp_path):
  leave(digits(), tmp_path, "teacher", finished=False)
  records.check(digits(run__log_every=7, distill__num_steps=7), tmp_path)
  for overrides, message in [
    ({"network__width": 64}, "network.width: 128 -> 64"),
    ({"run__seed": 1}, "seed: 0 -> 1"),
    ({"teacher__num_steps": 9}, "teacher.num_steps: 2400 -> 9"),
  ]:
    with pytest.raises(ConfigError, match=re.escape(message)):
      records.check(digits(**overrides), tmp_path)


MISMATCHES = {
  "process__name": "uniform",
  "process__schedule": "cosine",
  "process__schedule_power": 3.0,
  "teacher__loss": "cross_entropy",
  "network__name": "uvit",
  "network__width": 64,
  "network__depth": 2,
  "network__heads": 2,
  "network__patch": 1,
  "network__embed_dim": 16,
  "network__mlp_ratio": 2,
  "network__positions": "learned",
  "network__conv": 5,
  "network__block": 4,
  "network__classes": True,
  "dataset__name": "coins",
}


@pytest.mark.parametrize("field", MISMATCHES)
@pytest.mark.parametrize("phase", ["distill", "evaluate"])
def test_a_teacher_that_is_not_what_the_config_says_is_refused(tmp_path, field, phase):
  leave(digits(**{field: MISMATCHES[field]}), tmp_path / "other", "teacher")
  config = digits(phases=(phase,), distill__teacher_workdir=str(tmp_path / "other"))
  with pytest.raises(ConfigError, match=re.escape(field.replace("__", ".") + ": ")) as error:
    records.check(config, tmp_path / "mine")
  assert "\n" not in str(error.value) and "teacher in" in str(error.value)


def test_all_differences_of_a_teacher_are_listed(tmp_path):
  other = digits(process__name="uniform", teacher__loss="cross_entropy", network__width=64)
  leave(other, tmp_path, "teacher")
  with pytest.raises(ConfigError) as error:
    records.check(digits(phases=("distill",)), tmp_path)
  for difference in (
    "process.name: uniform -> masked",
    "teacher.loss: cross_entropy -> bound",
    "network.width: 64 -> 128",
  ):
    assert difference in str(error.value)


@pytest.mark.parametrize("overrides", [{"distill__noise": "none"}, {"distill__noise_dim": 8}])
def test_a_student_that_is_not_what_the_config_says_is_refused(tmp_path, overrides):
  whole(tmp_path, digits())
  with pytest.raises(ConfigError, match=r"the student in .* is not what this config says"):
    records.check(digits(phases=("evaluate",), **overrides), tmp_path)


def test_a_teacher_may_be_used_with_other_memory_and_precision_and_training(tmp_path):
  leave(digits(network__remat="full", teacher__num_steps=9), tmp_path / "other", "teacher")
  config = digits(
    phases=("distill",),
    distill__teacher_workdir=str(tmp_path / "other"),
    network__dtype="bfloat16",
  )
  records.check(config, tmp_path / "mine")


@pytest.mark.parametrize("phase", ["distill", "evaluate"])
def test_an_unfinished_teacher_is_used_only_where_asked_for(tmp_path, phase):
  leave(digits(), tmp_path, "teacher", finished=False)
  config = digits(phases=(phase,))
  with pytest.raises(
    ConfigError, match=r"not finished, its last checkpoint is of step 2400.*--unf"
  ):
    records.check(config, tmp_path)
  records.check(config, tmp_path, unfinished=True)
  source = records.find_sources(config, tmp_path, phase, unfinished=True)["teacher"]
  assert (source.step, source.digest) == (2400, None)
  records.check(digits(), tmp_path)  # which finishes it first


def test_an_unfinished_student_is_measured_only_where_asked_for(tmp_path):
  leave(digits(), tmp_path, "teacher")
  leave(digits(), tmp_path, "distill", finished=False)
  config = digits(phases=("evaluate",))
  with pytest.raises(ConfigError, match=r"the student in .* is not finished"):
    records.check(config, tmp_path)
  student = records.find_sources(config, tmp_path, "evaluate", True)["student"]
  assert student.step == config.distill.num_steps


def test_distilling_needs_a_teacher(tmp_path):
  with pytest.raises(ConfigError, match="no trained teacher in"):
    records.check(digits(phases=("distill",)), tmp_path)
  leave(digits(), tmp_path, "teacher")
  records.check(digits(phases=("distill",)), tmp_path)
  elsewhere = digits(phases=("distill",), distill__teacher_workdir=str(tmp_path))
  records.check(elsewhere, tmp_path / "other")


def test_an_exact_teacher_still_needs_a_network_to_start_from_but_evaluating_does_not(tmp_path):
  with pytest.raises(ConfigError, match="no trained teacher"):
    records.check(make(toy_dmmd, phases=("distill",)), tmp_path)
  records.check(make(toy_dmmd, phases=("evaluate",)), tmp_path)


def test_measuring_text_needs_a_reference_model_of_the_same_tokens(tmp_path):
  here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
  leave(text(), here, "teacher")
  with pytest.raises(ConfigError, match=r"no trained reference in .*here"):
    records.check(text(phases=("evaluate",)), here)
  there = text(phases=("evaluate",), reference__workdir=str(elsewhere))
  with pytest.raises(ConfigError, match=r"no trained reference in .*elsewhere"):
    records.check(there, here)
  leave(text(dataset__alphabet="printable"), elsewhere, "reference")
  with pytest.raises(ConfigError, match=re.escape("dataset.alphabet: printable -> text8")):
    records.check(there, here)
  leave(text(), tmp_path / "same", "reference")
  records.check(text(phases=("evaluate",), reference__workdir=str(tmp_path / "same")), here)


def test_files_of_weights_are_known_by_their_bytes(tmp_path):
  gpt2, config = tmp_path / "gpt2", make(cifar_dmmd)
  leave(text(dataset__alphabet="gpt2"), tmp_path, "teacher")
  measured = text(phases=("evaluate",), reference__gpt2=str(gpt2), dataset__alphabet="gpt2")
  with pytest.raises(ConfigError, match=r"no config.json and model.safetensors in"):
    records.check(measured, tmp_path)
  gpt2.mkdir()
  (gpt2 / "config.json").write_text("{}")
  (gpt2 / "model.safetensors").write_text("a")
  leave(measured, tmp_path, "evaluate")
  assert is_complete(measured, tmp_path, "evaluate")
  (gpt2 / "model.safetensors").write_text("b")
  assert not is_complete(measured, tmp_path, "evaluate")

  weights = tmp_path / "inception.pth"
  config.evaluate.inception = str(weights)
  leave(config, tmp_path / "images", "teacher")
  leave(config, tmp_path / "images", "evaluate")  # without FID
  assert is_complete(config, tmp_path / "images", "evaluate")
  weights.write_text("w")
  assert not is_complete(config, tmp_path / "images", "evaluate")


@pytest.mark.parametrize("phase", ["teacher", "distill", "evaluate"])
def test_a_phase_sees_only_what_its_record_holds(phase):
  config = make(coins_dmmd)
  own = records.own_config(config, phase)
  recorded = records.depends(config, phase, {})["config"]
  assert set(own.to_dict()) - {"run"} == set(recorded) - {"seed"}
  assert own.run.seed == recorded["seed"]
  assert own.to_dict().get("distill", {}).keys() == recorded.get("distill", {}).keys()
  with pytest.raises(AttributeError):
    _ = own.teacher.ema if phase != "teacher" else own.distill


def test_other_data_are_not_gone_on_with_once_they_are_known(tmp_path):
  folder = leave(digits(), tmp_path, "teacher", data=records.Source(None, {"fingerprint": "a"}))

  def now(**fingerprint):
    sources = {"data": records.Source(None, fingerprint)} if fingerprint else {}
    return records.depends(digits(), "teacher", sources)

  assert records.is_complete(folder, now(fingerprint="a")) and records.is_complete(folder, now())
  assert not records.is_complete(folder, now(fingerprint="b"))
  records.require_unchanged(folder, now())
  with pytest.raises(ConfigError, match=re.escape("data.fingerprint: a -> b")):
    records.require_unchanged(folder, now(fingerprint="b"))
