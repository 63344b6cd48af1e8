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
from tests.pairs import in_pairs


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


def sample_one_step(denoiser, params):
  @jax.jit
  def sample(params, key):
    predict = lambda z, t, key: denoiser.log_mean(params, z, t, key)
    return ancestral_sample(predict, denoiser.process, key, (4000, 2), 1).tokens

  return np.asarray(sample(params, jax.random.key(3)))


def wrong_and_heads(config, workdir, phase):
  """How many pairs differ, and how often the first coin shows heads, in one step of a model."""
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset, student=phase == "distill")
  name = {"distill": "student", "teacher": "teacher"}[phase]
  params = build.load_ema(records.find_model(workdir, name), denoiser.init, _one_device())
  x = sample_one_step(denoiser, params)
  return float((x[:, 0] != x[:, 1]).mean()), float(x[:, 0].mean())


def random_params(denoiser):
  rng = np.random.default_rng(1)
  shapes = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  return jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)


@pytest.mark.parametrize("noise", ["gaussian", "none"])
def test_without_noise_the_tokens_of_one_step_are_independent(noise):
  """Whatever the network: it cannot have both outcomes and no wrong pairs."""
  config = coins_dmmd.get_config()
  config.distill.noise = noise
  denoiser = build.make_denoiser(config, build.make_dataset(config), student=True)
  x = sample_one_step(denoiser, random_params(denoiser))
  correlation = np.corrcoef(x.T)[0, 1]
  # Its standard error is 0.016.
  assert np.isfinite(correlation) and (abs(correlation) > 0.08) == (noise == "gaussian")


def test_one_step_student_of_correlated_coins_by_the_kernel_score_alone(coins_teacher, tmp_path):
  """It keeps both outcomes and few wrong pairs, where in one step half of its teacher's are.

  `notebooks/coins.ipynb` has one by D-MMD.
  """
  config = coins_kernel.get_config()
  config.run.tensorboard = False
  config.distill.teacher_workdir = str(coins_teacher)
  run_phase(config, "distill", tmp_path)
  assert 0.45 < wrong_and_heads(config, coins_teacher, "teacher")[0] < 0.55
  wrong, heads = wrong_and_heads(config, tmp_path, "distill")
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
def test_steps_of_the_kernel_score(method, changes, parts, monkeypatch):
  """What state it keeps, how much data it takes, and that the student moves."""
  in_pairs(monkeypatch)
  config = coins_dmmd.get_config()
  config.distill.method = method
  config.distill.score.update(changes)
  dataset = build.make_dataset(config)
  method_of_config = distill.make_method(config, dataset)
  batch = Batch(np.asarray(dataset.train[: parts * config.distill.batch_size], np.int32))

  @jax.jit
  def init_and_step(key):
    params = nn.unbox(method_of_config.parts.auxiliary.init(key))
    state = nn.unbox(method_of_config.init(key, params))
    return state, *method_of_config.step(state, batch, key)

  state, after, metrics = jax.device_get(init_and_step(jax.random.key(0)))
  alone = method == "kernel_score"
  assert (state.auxiliary is None) == alone
  assert (state.teacher is None) == (alone and changes.get("target") != "teacher")
  assert method_of_config.batches_per_step == parts
  assert {"kernel_score_loss", "entropy", "student_gradient_norm"} <= metrics.keys()
  assert all(np.isfinite(value) for value in metrics.values())
  # The first step of the warm-up is of size 0; its gradient reaches the moments.
  moved = jax.tree.leaves(after.student.opt_state)
  assert any(leaf.any() for leaf in moved if leaf.ndim)


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
    size = batches * config.distill.batch_size
    batch = Batch(jax.ShapeDtypeStruct((size, *dataset.shape), jnp.int32))
    operations[updates] = flops(method.step, state, batch, jax.random.key(2))
  assert operations["joint"] <= 0.75 * operations["alternate"], operations


def test_a_student_and_an_auxiliary_start_from_the_teacher():
  config = coins_dmmd.get_config()
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  params = random_params(denoiser)
  method = distill.make_method(config, dataset)
  student = build.make_denoiser(config, dataset, student=True)
  z, t = jnp.full((5, 2), 2), jnp.ones(5)

  @jax.jit
  def compute(params):
    state = nn.unbox(method.init(jax.random.key(2), params))
    assert isinstance(state.student, optimization.Trainable)
    of_student = student.log_probs(state.student.params, z, t, jax.random.key(3))
    others = (denoiser.log_probs(p, z, t) for p in (state.auxiliary.params, params))
    return [whole(x) for x in (of_student, *others)]

  of_student, of_auxiliary, expected = jax.device_get(compute(params))
  assert np.ptp(expected, axis=-1).min() > 0.01
  np.testing.assert_array_equal(of_student, expected)
  np.testing.assert_array_equal(of_auxiliary, expected)
