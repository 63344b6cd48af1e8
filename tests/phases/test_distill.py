"""What distillation is for, and what a step costs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import coins_dmmd, coins_kernel, digits_dmmd
from dmmd_jax import experiment, optimization, parallel, records
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion.samplers import ancestral_sample
from dmmd_jax.flops import flops
from dmmd_jax.phases import build, distill
from dmmd_jax.positions import whole


@pytest.fixture(scope="module")
def coins_teacher(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("coins")
  config = coins_dmmd.get_config()
  config.run.tensorboard = False
  run_phase(config, "teacher", workdir)
  return workdir


def run_phase(config, phase, workdir):
  experiment.run_phase(config, phase, build.make_dataset(config), workdir, _one_device())


def _one_device():
  return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)


def sample_one_step(config, workdir, phase):
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset, student=phase == "distill")
  name = {"distill": "student", "teacher": "teacher"}[phase]
  params = build.load_ema(records.find_model(workdir, name), denoiser.init, _one_device())

  def predict(z, t, key):
    return denoiser.log_mean(params, z, t, key)

  key = jax.random.key(3)
  x = ancestral_sample(predict, denoiser.process, key, (4000, 2), 1).tokens
  return float((x[:, 0] != x[:, 1]).mean()), float(x[:, 0].mean())


@pytest.mark.parametrize("noise", ["gaussian", "none"])
def test_one_step_student_of_correlated_coins(coins_teacher, tmp_path, noise):
  """With noise it keeps both outcomes and few wrong pairs; without, it cannot have both."""
  config = coins_dmmd.get_config()
  config.run.tensorboard = False
  config.distill.noise = noise
  config.distill.teacher_workdir = str(coins_teacher)
  run_phase(config, "distill", tmp_path)
  assert 0.45 < sample_one_step(config, coins_teacher, "teacher")[0] < 0.55
  wrong, heads = sample_one_step(config, tmp_path, "distill")
  good = wrong <= 0.05 and 0.4 <= heads <= 0.6
  assert good == (noise == "gaussian"), (wrong, heads)


def test_one_step_student_of_correlated_coins_by_the_kernel_score_alone(coins_teacher, tmp_path):
  config = coins_kernel.get_config()
  config.run.tensorboard = False
  config.distill.teacher_workdir = str(coins_teacher)
  run_phase(config, "distill", tmp_path)
  wrong, heads = sample_one_step(config, tmp_path, "distill")
  assert wrong <= 0.05 and 0.4 <= heads <= 0.6, (wrong, heads)


@pytest.mark.parametrize(
  ("method", "changes", "parts"),
  [
    (
      "kernel_score",
      {"target": "teacher", "target_nfe": 2, "objective": "marginal", "num_noises": 1},
      1,
    ),
    ("dmmd_kernel", {"num_noises": 3}, 3),
  ],
)
def test_steps_of_the_kernel_score(method, changes, parts):
  """What state it keeps, how much data it takes, and that the student moves."""
  config = coins_dmmd.get_config()
  config.distill.method = method
  config.distill.score.update(changes)
  dataset = build.make_dataset(config)
  method_of_config = distill.make_method(config, dataset)
  params = nn.unbox(jax.jit(method_of_config.parts.auxiliary.init)(jax.random.key(0)))
  state = nn.unbox(jax.jit(method_of_config.init)(jax.random.key(2), params))
  alone = method == "kernel_score"
  assert (state.auxiliary is None) == alone
  assert (state.teacher is None) == (alone and changes.get("target") != "teacher")
  assert method_of_config.batches_per_step == parts
  batch = Batch(jnp.asarray(dataset.train[: parts * config.distill.batch_size]))
  after, metrics = jax.jit(method_of_config.step)(state, batch, jax.random.key(3))
  assert {"kernel_score_loss", "entropy", "student_gradient_norm"} <= metrics.keys()
  assert all(jnp.isfinite(value) for value in metrics.values())
  # The first step of the warm-up is of size 0; its gradient reaches the moments.
  moved = jax.tree.leaves(after.student.opt_state)
  assert any((jnp.abs(leaf) > 0).any() for leaf in moved if leaf.ndim)


def test_a_joint_step_costs_at_most_three_quarters_of_an_alternating_one():
  """3 forward and 2 backward passes against 6 and 2, counted in products of matrices."""
  config = digits_dmmd.get_config()
  config.network.remat = "none"
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  params = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  operations = {}
  for updates, batches in (("joint", 1), ("alternate", 2)):
    config.distill.updates = updates
    method = distill.make_method(config, dataset)
    state = nn.unbox(jax.eval_shape(method.init, jax.random.key(1), params))
    batch = Batch(jnp.asarray(dataset.train[: batches * config.distill.batch_size]))
    operations[updates] = flops(method.step, state, batch, jax.random.key(2))
  assert operations["joint"] <= 0.75 * operations["alternate"], operations


def test_a_student_and_an_auxiliary_start_from_the_teacher():
  config = coins_dmmd.get_config()
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  params = nn.unbox(jax.jit(denoiser.init)(jax.random.key(0)))
  params["logits"]["kernel"] = jax.random.normal(
    jax.random.key(1), params["logits"]["kernel"].shape
  )
  method = distill.make_method(config, dataset)
  state = nn.unbox(jax.jit(method.init)(jax.random.key(2), params))
  student = build.make_denoiser(config, dataset, student=True)
  z, t = jnp.full((5, 2), 2), jnp.ones(5)
  expected = whole(denoiser.log_probs(params, z, t))
  of_student = student.log_probs(state.student.params, z, t, jax.random.key(3))
  np.testing.assert_array_equal(whole(of_student), expected)
  of_auxiliary = denoiser.log_probs(state.auxiliary.params, z, t)
  np.testing.assert_array_equal(whole(of_auxiliary), expected)
  assert isinstance(state.student, optimization.Trainable)
