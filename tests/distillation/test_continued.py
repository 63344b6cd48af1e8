"""The control: steps of distillation that are those of the teacher's own phase."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coins_dmmd
from dmmd_jax import config as checks
from dmmd_jax import records
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.optimization import make_optimizer
from dmmd_jax.phases import build, distill, teacher
from tests.phases.tables import DATA, KEY, B, make_config, make_params, tables  # noqa: F401


@pytest.mark.parametrize(
  ("loss", "microbatches"), [("cross_entropy", 1), ("cross_entropy", 2), ("bound", 1)]
)
def test_its_steps_are_those_of_the_teachers_phase(loss, microbatches):
  """With the distillation's own optimiser and average, by what its phase may see of a config."""
  changes = {"ema": 0.5, "microbatches": microbatches, "student_optimizer__warmup_steps": 0}
  changes |= {"teacher__label_dropout": 0.0, "teacher__loss": loss, "process__name": "masked"}
  config = make_config(method="continued", noise="none", **changes)
  theta = make_params(4)[2]
  method = distill.make_method(records.own_config(config, "distill"), DATA)
  state, step = method.init(KEY, theta), jax.jit(method.step)

  config.teacher.update({"ema": 0.5, "microbatches": microbatches})
  optimizer = make_optimizer(config.distill.student_optimizer, config.distill.num_steps)
  expected = teacher.initial_state(theta, optimizer)
  denoiser = build.make_denoiser(config, DATA)
  as_teacher = jax.jit(teacher.make_step(config, denoiser, optimizer))

  batch = Batch(jnp.asarray(DATA.train[:B]), jnp.asarray(DATA.train_labels[:B]))
  for i in range(3):
    state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
    expected, of_teacher = as_teacher(expected, batch, jax.random.fold_in(KEY, i))
    np.testing.assert_array_equal(metrics["loss"], of_teacher["loss"])
  jax.tree.map(np.testing.assert_array_equal, state.student, expected.model)
  jax.tree.map(np.testing.assert_array_equal, state.ema, expected.ema)
  assert state.teacher is None and (state.ema["tokens"] != theta["tokens"]).all()


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"distill.top_p": 0.9}, "does not ask"),
    ({"distill.from_prior": True}, "needs all times"),
    ({"distill.teacher": "exact"}, "no control of what is known exactly"),
    ({"distill.noise": "gaussian"}, "for continued set it to 'none'"),
    ({"distill.lora_rank": 8}, "lora_rank"),
  ],
)
def test_what_does_not_go_together_is_refused(changes, said):
  config = coins_dmmd.get_config()
  config.distill.update(
    {"method": "continued", "noise": "none", "from_prior": False, "teacher": "network"}
  )
  checks.check(config)
  config.update_from_flattened_dict(changes)
  with pytest.raises(checks.ConfigError, match=said):
    checks.check(config)
