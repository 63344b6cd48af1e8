"""Steps of methods with an auxiliary model whose own tests are of the losses: both models learn."""

import jax
import numpy as np
import pytest

from dmmd_jax.data.pipeline import Batch
from dmmd_jax.phases import distill
from tests.phases.tables import DATA, KEY, make_config, make_params, tables  # noqa: F401

METRICS = {
  "didi": {"log_ratio", "auxiliary_loss", "teacher_student_kl", "entropy"},
  "dimo": {"divergence", "auxiliary_loss", "entropy"},
}


@pytest.mark.parametrize("name", METRICS)
def test_steps_move_both_models(name):
  """Joint ones are made; of alternating ones, of which those of updates are the tests, what they
  would give."""
  _, phi, theta = make_params(4)
  for updates in ("joint", "alternate"):
    changes = {"microbatches": 2, "updates": updates, "auxiliary_updates": 1}
    config = make_config(method=name, student_nfe=1 if name == "dimo" else 2, **changes)
    method = distill.make_method(config, DATA)
    rows = slice(4 * method.batches_per_step)
    batch = Batch(DATA.train[rows], DATA.train_labels[rows])
    if updates == "joint":
      state = jax.jit(method.init)(KEY, theta)
      # Where it starts, at the teacher, it says nothing to the student.
      state = state.replace(auxiliary=state.auxiliary.replace(params=phi))
      after, metrics = jax.jit(method.step)(state, batch, KEY)
      assert all(np.isfinite(value) for value in metrics.values())
      for model in ("student", "auxiliary"):
        assert getattr(after, model).count == 1 and metrics[f"{model}_gradient_norm"] > 0
    else:
      _, metrics = jax.eval_shape(method.step, state, batch, KEY)
    assert METRICS[name] <= metrics.keys()
