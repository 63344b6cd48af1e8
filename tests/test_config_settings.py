"""What methods and samplers say of their own settings; more of methods is in test_config.py."""

import re

import pytest

from configs import digits_dimo, digits_dmmd, digits_redi, digits_sdtt, text_block_dmmd, text_dmmd
from dmmd_jax import config as checks
from dmmd_jax import config_file


def make(module=digits_dmmd, **overrides):
  config = module.get_config()
  for field, value in overrides.items():
    config_file.assign(config, field.replace("__", "."), value)
  return config


UNIFORM = {"process__name": "uniform", "distill__dmmd__auxiliary_target": "hard"}
DIMO = {"distill__method": "dimo", "distill__student_nfe": 1, "distill__noise": "gaussian"}


@pytest.mark.parametrize(
  ("config", "message"),
  [
    (make(evaluate__sampler="remask"), "evaluate.sampler is 'remask'; expected one of ancestral"),
    (
      make(evaluate__sampler="remdm", **UNIFORM),
      "the sampler is 'remdm' and process.name is 'uniform'; remdm is for masked: use ancestral or",
    ),
    (make(evaluate__student_sampler="p2", **UNIFORM), "the sampler is 'p2' and process.name is"),
    (
      make(evaluate__student_sampler="remdm", **DIMO),
      "the student's sampler is 'remdm'; a student of dimo is drawn in a way of its own",
    ),
    (
      make(evaluate__sampler="remdm", evaluate__remdm={"variant": "conf", "eta": 0.5}),
      "remdm.eta is 0.5 and remdm.variant 'conf', which has none",
    ),
    (
      make(evaluate__sampler="threshold", evaluate__last_step="greedy"),
      "the sampler is 'threshold' and last_step 'greedy'; it is complete before its last step",
    ),
    (
      make(evaluate__sampler="remdm", evaluate__remdm__eta=1.5),
      "evaluate.remdm.eta is 1.5; expected a number (float32) in [0, 1]",
    ),
    (
      make(evaluate__psi__kapa=0.5),
      "has a field evaluate.psi.kapa, which nothing uses; did you mean evaluate.psi.kappa?",
    ),
    (
      make(evaluate__ancestral__skip=True, **UNIFORM),
      "ancestral.skip is True and process.name is 'uniform'",
    ),
    (
      make(evaluate__sampler="psi", evaluate__psi__begin=0.2, evaluate__psi__end=0.4),
      "psi.begin is 0.2 and psi.end is 0.4; time goes down",
    ),
    (
      make(evaluate__sampler="threshold", evaluate__threshold__block=4),
      "a sampler's block is 4; expected 0, or for sequences",
    ),
    (
      make(text_block_dmmd, evaluate__sampler="confidence", evaluate__confidence__block=4),
      "a sampler's block is 4; expected 0, or for sequences that the network draws as a whole",
    ),
    (make(evaluate__times=(1.0, 0.0)), "evaluate.times is (1.0, 0.0) and evaluate.grid is 'even'"),
    (make(evaluate__grid="own"), "evaluate.times is (); expected falling numbers, the first 1"),
    (
      make(evaluate__grid="own", evaluate__times=(1.0, 0.4, 0.5, 0.0)),
      "evaluate.times is (1.0, 0.4, 0.5, 0.0); expected falling numbers",
    ),
    (
      make(evaluate__grid="own", evaluate__times=(1.0, 0.5)),
      "evaluate.times is (1.0, 0.5); expected falling numbers, the first 1 and the last 0",
    ),
  ],
)
def test_samplers_that_do_not_fit_are_named_in_one_line(config, message):
  with pytest.raises(checks.ConfigError, match=re.escape(message)) as error:
    checks.check(config)
  assert "\n" not in str(error.value)


def test_a_config_has_the_settings_of_its_samplers_alone():
  config = make(
    evaluate__student_sampler="remdm", evaluate__remdm__eta=0.1, evaluate__psi__kappa=0.5
  )
  checks.check(config, ["evaluate.remdm.eta"])
  assert config.evaluate.remdm.to_dict() == {"variant": "cap", "eta": 0.1}
  assert config.evaluate.ancestral.to_dict() == {"skip": False}
  assert "psi" not in config.evaluate
  message = (
    "evaluate.psi.kappa is given, and the samplers are ancestral and remdm, which has no such"
  )
  with pytest.raises(checks.ConfigError, match=re.escape(message)) as error:
    checks.check(config, ["evaluate.psi.kappa"])
  assert str(error.value).endswith("its sections are: evaluate.ancestral, evaluate.remdm")


def test_samplers_of_text_may_go_in_blocks_of_their_own():
  config = make(text_dmmd, evaluate__sampler="threshold", evaluate__threshold__block=16)
  config.evaluate.update({"grid": "own", "times": (1.0, 0.3, 0.0)})
  checks.check(config)


@pytest.mark.parametrize(
  "field", [{"grid": "cosine"}, {"last_step": "greedy"}, {"student_sampler": "remdm"}]
)
def test_how_a_student_is_drawn_is_open_where_its_method_leaves_it_open(field):
  checks.check(make(digits_sdtt, **{f"evaluate__{name}": value for name, value in field.items()}))
  for config in (digits_redi, digits_dimo):
    with pytest.raises(checks.ConfigError, match="is drawn in a way of its own"):
      checks.check(make(config, **{f"evaluate__{name}": value for name, value in field.items()}))
