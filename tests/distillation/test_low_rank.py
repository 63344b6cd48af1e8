"""Changes of low rank: what they start as, what a step makes of them, what is saved of them."""

import dataclasses

import flax.linen as nn
import jax
import numpy as np
import optax
import pytest
from etils import epath
from flax.traverse_util import flatten_dict

from configs import coins_dmmd
from dmmd_jax import config as checks
from dmmd_jax import drawing, experiment, parallel, records
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion.samplers import ancestral_sample
from dmmd_jax.distillation import low_rank, registry
from dmmd_jax.phases import build, distill, models

KEY, RATE = jax.random.key(3), 0.1


def make_config(rank, **changes):
  config = coins_dmmd.get_config()
  config.run.tensorboard = False
  config.network.update({"width": 16, "depth": 2})
  joint = {"updates": "joint", "auxiliary_updates": 1}
  config.distill.update({"lora_rank": rank, "batch_size": 16} | joint | changes)
  return config


def make_method(rank, **changes):
  """A method by plain gradient descent, its data, and a teacher that says something."""
  config = make_config(rank, **changes)
  dataset = build.make_dataset(config)
  method = distill.make_method(config, dataset)
  sgd = {"student_optimizer": optax.sgd(RATE), "auxiliary_optimizer": optax.sgd(RATE)}
  plain = method.method if rank else method
  training = dataclasses.replace(plain.parts.training, **sgd)
  plain = dataclasses.replace(plain, parts=dataclasses.replace(plain.parts, training=training))
  shapes = nn.unbox(jax.eval_shape(plain.parts.auxiliary.init, KEY))
  rng = np.random.default_rng(0)
  teacher = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)
  batch = Batch(np.asarray(dataset.train[:16], np.int32))
  return low_rank.LowRank(plain, rank) if rank else plain, teacher, batch


def init_and_step(method, teacher, batch):
  @jax.jit
  def run(teacher):
    state = nn.unbox(method.init(KEY, teacher))
    return state, *method.step(state, batch, jax.random.key(4))

  return jax.device_get(run(teacher))


@pytest.mark.parametrize("name", ["dmmd", "kernel_score"])
def test_a_step_follows_the_gradient_of_the_whole_network(name):
  """That of `W + down @ up` in `up` is `down^T dW`, and none in `down`, where `up` is zero."""
  whole, teacher, batch = make_method(0, method=name)
  before, after, metrics = init_and_step(whole, teacher, batch)
  changed, *_ = make_method(3, method=name)
  start, end, same_metrics = init_and_step(changed, teacher, batch)
  losses = [loss for loss in metrics if loss.endswith("loss")]
  np.testing.assert_allclose(
    [metrics[x] for x in losses], [same_metrics[x] for x in losses], rtol=1e-5
  )
  models = ["student"] if name == "kernel_score" else ["student", "auxiliary"]
  for model in models:
    of_whole, of_changes = getattr(before, model).params, getattr(start, model).params
    jax.tree.map(np.testing.assert_array_equal, low_rank.merge(teacher, of_changes), of_whole)
    old, new = (flatten_dict(getattr(s, model).params, sep="/") for s in (before, after))
    found = getattr(end, model).params
    assert len(found["changes"]) > 5 and all(n.endswith("kernel") for n in found["changes"])
    for kernel, change in found["changes"].items():
      down = of_changes["changes"][kernel]["down"]
      expected = np.swapaxes(down, -1, -2) @ (new[kernel] - old[kernel])
      np.testing.assert_allclose(change["up"], expected, rtol=1e-4, atol=1e-7, err_msg=kernel)
      np.testing.assert_array_equal(change["down"], down)
    for own, value in found["own"].items():
      assert "noise" in own
      np.testing.assert_allclose(value, new[own], rtol=1e-4, atol=1e-7)
    assert bool(found["own"]) == (model == "student")
  jax.tree.map(np.testing.assert_array_equal, end.teacher, teacher)
  # Where the auxiliary model is the teacher still, the generator's loss has no gradient.
  last = getattr(end, models[-1]).params["changes"]
  assert max(np.abs(change["up"]).max() for change in last.values()) > 1e-4


TAKING = [n for n in registry.METHODS if getattr(registry.find(n), "takes_low_rank", False)]


@pytest.mark.parametrize("name", TAKING)
def test_a_step_of_every_method_that_takes_it_leaves_a_state_of_the_same_shapes(name):
  config = make_config(2, method=name, from_prior=False, student_nfe=1)
  checks.check(config)
  dataset = build.make_dataset(config)
  method = distill.make_method(config, dataset)
  assert isinstance(method, low_rank.LowRank)
  teacher = nn.unbox(jax.eval_shape(method.parts.auxiliary.init, KEY))
  state = nn.unbox(jax.eval_shape(method.init, KEY, teacher))
  batch = Batch(np.zeros((16 * method.batches_per_step, 2), np.int32))
  after, _ = jax.eval_shape(method.step, state, batch, KEY)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), state) == jax.tree.map(
    lambda x: (x.shape, x.dtype), after
  )
  assert set(state.ema) == {"changes", "own"} and state.teacher is not None


def test_a_step_on_a_mesh_is_that_of_one_device():
  method, teacher, batch = make_method(2, method="kernel_score")

  def run(devices, axes):
    mesh = jax.sharding.Mesh(np.array(devices).reshape(axes), parallel.AXES)
    boxed = jax.eval_shape(method.init, KEY, teacher)
    shardings = parallel.state_shardings(mesh, boxed)

    @jax.jit
    def init_and_step(teacher, batch):
      state = jax.lax.with_sharding_constraint(nn.unbox(method.init(KEY, teacher)), shardings)
      return method.step(state, batch, jax.random.key(4))

    with parallel.use(mesh):
      placed = parallel.place_batch(mesh, batch, np.arange(16), 16)
      state, metrics = jax.device_get(init_and_step(teacher, placed))
    split = [s.spec for s in jax.tree.leaves(shardings.student.params)]
    return state, metrics, split

  found, metrics, split = run(jax.devices(), (2, 2, 2))
  expected, other, _ = run(jax.devices()[:1], (1, 1, 1))
  assert any("fsdp" in str(spec) for spec in split) and any("tensor" in str(x) for x in split)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
    (found, metrics), (expected, other),
  )  # fmt: skip


def test_a_student_of_low_rank_is_trained_kept_and_loaded(tmp_path):
  config = make_config(
    4, method="kernel_score", num_steps=200, batch_size=64, teacher_dtype="bfloat16"
  )
  config.teacher.num_steps = 150
  config.distill.student_optimizer.learning_rate = 1e-2
  dataset = build.make_dataset(config)
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)
  for phase in ("teacher", "distill"):
    experiment.run_phase(config, phase, dataset, tmp_path, mesh)
  student, teacher = (build.make_denoiser(config, dataset, student=s) for s in (True, False))
  source = records.find_model(tmp_path, "student")
  params = build.load_student(source, student, teacher, mesh)
  assert params["layers"]["qkv"]["kernel"].dtype == "bfloat16"
  assert wrong_pairs(student, params) < 0.3  # half of the teacher's are
  sources = records.find_sources(config, epath.Path(tmp_path), "evaluate")
  _, measured = models.make_models(config, sources, dataset, None, mesh)
  drawn = drawing.load(source, is_student=True, guidance=0.0)
  for other in (measured.params, drawn.params):
    jax.tree.map(np.testing.assert_array_equal, other, params)


def wrong_pairs(denoiser, params):
  """The share of them in one step."""

  @jax.jit
  def sample(params):
    predict = lambda z, t, key: denoiser.log_mean(params, z, t, key)
    return ancestral_sample(predict, denoiser.process, KEY, (2000, 2), 1).tokens

  return float(np.ptp(sample(params), axis=1).mean())


@pytest.mark.parametrize("name", sorted(registry.METHODS.keys() - set(TAKING)))
def test_other_methods_refuse_it(name):
  noises = registry.find(name).noises
  config = make_config(4, method=name, from_prior=False, noise=noises[0])
  with pytest.raises(checks.ConfigError, match=rf"distill.lora_rank is 4; {name} trains whole"):
    checks.check(config)
