import importlib
import pathlib
import re
import sys

import pytest

from configs import cifar_dmmd, digits_dmmd, hmm_dmmd, text_dmmd
from dmmd_jax import config as checks
from dmmd_jax import image_size
from dmmd_jax.diffusion import fast_memory


def digits(**overrides):
  config = digits_dmmd.get_config()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config


def text(**overrides):
  config = text_dmmd.get_config()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  return config


@pytest.mark.parametrize("path", sorted(pathlib.Path("configs").glob("*.py")), ids=lambda p: p.stem)
def test_shipped_configs_are_sound(path):
  config = importlib.import_module(f"configs.{path.stem}").get_config()
  if config.dataset.get("shape") == ():  # of images of one's own
    config.dataset.update(name="stripes", shape=(64, 64, 3))
  image_size.settle(config, {})
  checks.check(config)
  for preset in config.get("presets", {}):
    config.preset = preset
    image_size.settle(config, {})
    checks.check(config)


def test_a_preset_yields_to_what_is_given_by_hand():
  config = text(preset="quick", teacher__num_steps=7)
  checks.apply_preset(config, {"teacher.num_steps": 7})
  assert config.teacher.num_steps == 7
  assert config.distill.num_steps < text().distill.num_steps
  with pytest.raises(checks.ConfigError, match="preset is 'fast'; this config has quick"):
    checks.apply_preset(text(preset="fast"), {})


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"network__block": 24}, "network.block is 24; expected 0, or for sequences a divisor"),
    ({"network__conv": 4}, "network.conv is 4; expected 0, or for sequences an odd number"),
    ({"dataset__alphabet": "ascii"}, "dataset.alphabet is 'ascii'; expected one of text8"),
    ({"dataset__unknown": "skip"}, "dataset.unknown is 'skip'"),
    ({"dataset__length": 0}, "dataset.length is 0"),
    ({"dataset__name": "digits"}, "phases has 'reference', a model of text"),
    ({"run__profile": (5, 3)}, "run.profile is (5, 3); expected the first and the last step"),
    ({"evaluate__sample_batch_size": 1}, "evaluate.sample_batch_size is 1"),
    ({"network__conv": -1}, "network.conv is -1"),
    ({"network__block": -16}, "network.block is -16"),
    ({"reference__batch_size": 0}, "reference.batch_size is 0"),
    ({"dataset__length": 3}, "dataset.length is 3; expected a whole number from 4"),
    ({"reference__gpt2": "~/gpt2"}, "GPT-2 reads only its own byte pairs"),
    (
      {"network__block": 8, "evaluate__teacher_guidance": 1.0},
      "network.block; a network of several blocks is not guided",
    ),
    (
      {"process__name": "uniform", "distill__guidance": 1.0},
      "guidance is above 0 with network.classes=False and process.name 'uniform'",
    ),
    (
      {"network__block": 8, "distill__method": "dmmd_kernel"},
      "0 <= window <= 8 for english",
    ),
    ({"dataset__name": "textfile"}, "dataset.name is 'textfile' and dataset.path is ''"),
    ({"dataset__alphabet": "gpt2"}, "dataset.alphabet is 'gpt2' and dataset.tokenizer is ''"),
    (
      {"distill__method": "dmmd_kernel", "distill__score__category_bandwidth": 8.0},
      "the tokens of english have no order",
    ),
    (
      {"distill__method": "dmmd_kernel", "network__block": 8, "network__patch": 1}
      | {"distill__score__objective": "pooled"},
      "network.block is 8; blocks depend on those before them",
    ),
  ],
)
def test_impossible_text_configs_are_named_in_one_line(overrides, message):
  with pytest.raises(checks.ConfigError, match=re.escape(message)) as error:
    checks.check(text(**overrides))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"process__name": "mask"}, "process.name is 'mask'; expected one of masked, uniform"),
    ({"process__name": "uniform"}, "auxiliary_target is 'soft' with the uniform process"),
    ({"distill__method": "kernel_score", "distill__score__num_noises": 1}, "score.num_noises is 1"),
    (
      {"distill__method": "dmmd_kernel", "distill__dmmd_kernel__score_stride": 2},
      "score_stride is 2 and dmmd_noises 'all'",
    ),
    (
      {
        "distill__method": "dmmd_kernel",
        "distill__batch_size": 64,
        "distill__microbatches": 4,
        "distill__dmmd_kernel": {"dmmd_noises": "first", "score_stride": 3},
      },
      "distill.batch_size / distill.microbatches is 16 and distill.dmmd_kernel.score_stride 3",
    ),
    (
      {
        "distill__method": "dmmd_kernel",
        "distill__batch_size": 8,
        "distill__dmmd_kernel": {"dmmd_noises": "first", "score_stride": 8},
        "distill__score__objective": "marginal",
      },
      "is 8, of which the score is given 1 in 8; the marginal kernel score compares at least 2",
    ),
    (
      {"distill__method": "kernel_score", "distill__score__objective": "pooled"}
      | {"network__classes": True},
      "the student is given labels or prompts",
    ),
    (
      {"distill__method": "kernel_score", "distill__score__scales": ()},
      "score.scales is (); expected a tuple of one or more",
    ),
    (
      {"distill__method": "kernel_score", "distill__score__scales": ((2, 1, 4.0),)},
      "score.scales is ((2, 1, 4.0),); expected",
    ),
    (
      {"distill__method": "kernel_score", "distill__score__scales": ((9, 1, (4.0,)),)},
      "0 <= window <= 8 for digits",
    ),
    (
      {"distill__method": "kernel_score", "distill__score__scales": ((2, 1, (0.0,)),)},
      "bandwidths a tuple of one or more, each a finite number (float32) of at least 0.1",
    ),
    (
      {"distill__method": "kernel_score", "distill__score__category_bandwidth": -1.0},
      "score.category_bandwidth is -1.0",
    ),
    (
      {
        "distill__method": "kernel_score",
        "distill__score__objective": "marginal",
        "distill__microbatches": 64,
      },
      "is 1; the marginal kernel score compares at least 2 examples",
    ),
    (
      {"distill__method": "kernel_score", "distill__top_p": 0.9},
      "act on the teacher, which the kernel score against data does not ask",
    ),
    (
      {"distill__dmmd__weight": "elbo", "distill__dmmd__loss": "bound"},
      "distill.dmmd.loss is 'bound', which has that weight in it",
    ),
    (
      {
        "process__name": "uniform",
        "distill__dmmd__auxiliary_target": "hard",
        "distill__dmmd__weight": "elbo",
      },
      "'elbo' with the uniform",
    ),
    (
      {
        "process__name": "uniform",
        "distill__dmmd__auxiliary_target": "hard",
        "distill__dmmd__loss": "bound",
        "teacher__loss": "cross_entropy",
      },
      "train it with teacher.loss='bound'",
    ),
    (
      {
        "process__name": "marginal",
        "distill__dmmd__auxiliary_target": "hard",
        "distill__dmmd__loss": "bound",
        "distill__top_p": 0.9,
      },
      "act on E",
    ),
    ({"evaluate__student_nfe": (0, 1)}, "student_nfe is (0, 1)"),
    ({"evaluate__teacher_nfe": ()}, "teacher_nfe is ()"),
    ({"distill__top_p": 0.0}, "distill.top_p is 0.0; expected a number (float32) in (0, 1]"),
    ({"distill__top_p": 1.5}, "distill.top_p is 1.5"),
    ({"distill__temperature": 0.0}, "expected a number (float32) in [0.01, 100]"),
    ({"dataset__name": "cifar10"}, "start from configs/cifar_dmmd.py"),
    ({"dataset__name": "digit"}, "; did you mean digits?"),
    ({"network__name": "unet"}, "network.name is 'unet'; expected one of transformer, uvit"),
    ({"network__dropout": 1.0}, "network.dropout is 1.0; expected a number (float32) in [0, 1)"),
    ({"teacher__ema": 1.0}, "teacher.ema is 1.0; expected a number (float32) in [0, 1)"),
    ({"distill__guidance": 1.0}, "images; these are guided by labels: set network.classes=True"),
    (
      {"distill__guidance": -1.0},
      "distill.guidance is -1.0; expected a number (float32) in [0, 100]",
    ),
    ({"run__data_workers": -1}, "run.data_workers is -1"),
    ({"teacher__microbatches": 0}, "teacher.microbatches is 0"),
    ({"distill__teacher_dtype": "float16"}, "distill.teacher_dtype is 'float16'"),
    ({"distill__teacher": "exact"}, "joint distribution of digits is not known"),
    ({"network__patch": 3}, "expected a divisor of the sides 8 x 8"),
    ({"network__heads": 3}, "multiple of 4 times network.heads"),
    (
      {"teacher__num_steps": 0},
      "teacher.num_steps is 0; expected a whole number (int32) of at least 1",
    ),
    (
      {"phases": ("train",)},
      "phases is ('train',); expected a tuple of one or more, each one of teacher",
    ),
    ({"phases": ()}, "phases is (); expected a tuple of one or more"),
    ({"dataset__name": "english"}, "a text; start from configs/text_dmmd.py"),
    ({"network__block": 4}, "network.block is 4"),
    ({"phases": ("evaluate", "teacher")}, "phases has 'evaluate' before teacher"),
    ({"phases": ("teacher", "teacher")}, "none twice"),
    (
      {"network__name": "uvit"},
      "no network.channels, network.res_blocks, which uvit or digits need",
    ),
    (
      {
        "distill__method": "kernel_score",
        "distill__score__objective": "marginal",
        "distill__batch_size": 4,
        "distill__microbatches": 4,
      },
      "distill.batch_size / distill.microbatches is 1; the marginal kernel score",
    ),
    ({"run__mesh": (0, 1, 1)}, "run.mesh is (0, 1, 1)"),
    ({"run__mesh": (-1, 1, 3)}, "splits heads 3 ways"),
    ({"dataset__name": ""}, "dataset.name is ''"),
    ({"dataset__name": "coins", "network__patch": 1}, "'pyramid' but coins are sequences"),
  ],
)
def test_impossible_configs_are_named_in_one_line(overrides, message):
  with pytest.raises(checks.ConfigError, match=re.escape(message)) as error:
    checks.check(digits(**overrides))
  assert "\n" not in str(error.value)


@pytest.mark.parametrize(
  ("mesh", "devices", "batch", "message"),
  [
    ((-1, 1, 1), 8, 60, "teacher.batch_size is 60; expected a multiple of the 8 devices"),
    ((4, 1, 1), 8, 64, "run.mesh is (4, 1, 1) on 8 devices"),
    ((-1, 3, 1), 8, 64, "run.mesh is (-1, 3, 1) on 8 devices"),
    ((-1, -1, 1), 8, 64, "run.mesh is (-1, -1, 1); expected"),
    ((0, 1, 1), 8, 64, "run.mesh is (0, 1, 1); expected"),
  ],
)
def test_meshes_and_batches_that_do_not_fit_the_devices(mesh, devices, batch, message):
  with pytest.raises(checks.ConfigError, match=re.escape(message)):
    checks.check_devices(digits(run__mesh=mesh, teacher__batch_size=batch), devices)


def test_a_network_has_no_fields_of_another():
  config = digits()
  config.network.update(name="uvit", channels=(8,), res_blocks=1)
  with pytest.raises(checks.ConfigError, match=r"uvit has no network.patch, .*; leave it out"):
    checks.check(config)


@pytest.mark.parametrize("field", ["distill.guidance", "evaluate.teacher_guidance"])
def test_an_exact_teacher_is_not_guided(field):
  config = hmm_dmmd.get_config()
  config.update_from_flattened_dict({field: 0.5})
  with pytest.raises(checks.ConfigError, match="'exact'; only a network is guided"):
    checks.check(config)
  config.distill.teacher = "network"
  checks.check(config)


@pytest.mark.parametrize("field", ["distill.guidance", "evaluate.teacher_guidance"])
def test_a_teacher_that_has_always_seen_labels_is_not_guided_by_them(field):
  config = digits(network__classes=True, teacher__label_dropout=0.0)
  checks.check(config)
  config.update_from_flattened_dict({field: 1.0})
  with pytest.raises(checks.ConfigError, match="label_dropout 0; one that has always seen labels"):
    checks.check(config)
  config.teacher.label_dropout = 0.1
  checks.check(config)
  # A teacher of another run was trained by its own config.
  config.teacher.label_dropout = 0.0
  config.distill.teacher_workdir = "elsewhere"
  checks.check(config)


def test_a_student_of_the_prior_alone_is_one_of_a_single_step():
  checks.check(digits(distill__from_prior=True, distill__student_nfe=1))
  with pytest.raises(checks.ConfigError, match=r"distill\.student_nfe 2; a student that sees"):
    checks.check(digits(distill__from_prior=True, distill__student_nfe=2))


def test_joint_updates_are_one_of_each_network():
  checks.check(digits(distill__auxiliary_updates=3))
  with pytest.raises(checks.ConfigError, match=r"distill\.auxiliary_updates 3; both networks"):
    checks.check(digits(distill__auxiliary_updates=3, distill__updates="joint"))


def test_choices_of_dmmd_do_not_bind_the_kernel_score_alone():
  checks.check(digits(process__name="uniform", distill__method="kernel_score"))


def test_fitting_meshes_pass():
  for mesh in [(-1, 1, 1), (2, -1, 2), (8, 1, 1)]:
    checks.check_devices(digits(run__mesh=mesh), 8)


@pytest.mark.parametrize(
  ("overrides", "message"),
  [
    ({"network__channels": ()}, "network.channels is ()"),
    ({"dataset__shape": (32, 32, 2)}, "dataset.shape is (32, 32, 2); expected (height"),
    ({"dataset__shape": (32, 32, 4)}, "FID is for images of 1 or 3 channels"),
    ({"dataset__name": "folder"}, "dataset.name is 'folder' and dataset.path is ''"),
    (
      {"network__name": "transformer"},
      "the config has no network.patch, network.positions, network.conv, network.block, which",
    ),
    ({"network__channels": (8,) * 6}, "halves the image 6 times; expected sides 32 x 32"),
    ({"network__width": 100}, "network.width is 100; expected a multiple of 4 times"),
  ],
)
def test_impossible_uvits_are_named_in_one_line(overrides, message):
  config = cifar_dmmd.get_config()
  config.update_from_flattened_dict({k.replace("__", "."): v for k, v in overrides.items()})
  with pytest.raises(checks.ConfigError, match=re.escape(message)):
    checks.check(config)


def test_a_batch_has_to_divide_into_microbatches_on_every_device():
  config = digits(teacher__microbatches=4, teacher__batch_size=16)
  checks.check_devices(config, 4)
  with pytest.raises(checks.ConfigError, match=r"teacher.batch_size is 16.*microbatches \(4\)"):
    checks.check_devices(config, 8)
  with pytest.raises(checks.ConfigError, match="splits heads 8 ways"):
    checks.check_devices(digits(run__mesh=(1, 1, 8)), 8)


def test_tensorboard_needs_its_packages_where_something_is_trained(monkeypatch):
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(checks.ConfigError, match="tensorboard is True and tensorflow cannot be impo"):
    checks.check(digits())
  checks.check(digits(run__tensorboard=False))
  checks.check(digits(phases=("evaluate",)))


def test_a_hidden_markov_model_has_no_vocabulary_that_is_padded():
  """The masked process pads those from 1,024 on, and the exact denoiser would not fit it."""
  config = hmm_dmmd.get_config()
  config.dataset.num_categories = fast_memory.LARGE - 1
  checks.check(config)
  config.dataset.num_categories = fast_memory.LARGE
  with pytest.raises(checks.ConfigError, match="num_categories is 1024"):
    checks.check(config)


def test_a_setting_that_is_given_is_one_of_the_method():
  """Those of others may stand in a file; typed by hand they would have no effect."""
  field = "distill.score.num_noises"
  checks.check(digits(distill__score__num_noises=3))
  checks.check(digits(distill__method="dmmd_kernel"), [field])
  with pytest.raises(checks.ConfigError, match="dmmd, which has no such setting"):
    checks.check(digits(), [field])


def test_a_config_is_completed_by_its_method_and_keeps_no_settings_of_others():
  config = digits(distill__method="kernel_score")
  del config.distill.score["num_noises"]
  checks.check(config)
  assert config.distill.score.num_noises == 2
  assert "dmmd" not in config.distill and "dmmd_kernel" not in config.distill
