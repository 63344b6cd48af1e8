"""One program on meshes of every shape: the same losses, and no more moved than has to be."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import cifar_dmmd, digits_dmmd, text_dmmd
from dmmd_jax import optimization, parallel, positions, training
from dmmd_jax.data.pipeline import Batch, Batches, Dataset
from dmmd_jax.phases import build, distill, teacher

MESHES = {"one": None, "data": (8, 1, 1), "fsdp": (1, 8, 1), "all": (2, 2, 2)}
STEPS = 5


def make_mesh(sizes):
  if sizes:
    return parallel.make_mesh(sizes)
  return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)


def small_config(network):
  """The networks and the noise of the shipped configs at small size, both on the digits."""
  config = digits_dmmd.get_config()
  config.network.update({"width": 32, "depth": 2, "remat": "none"})  # compiles sooner
  if network == "uvit":
    config.network = cifar_dmmd.get_config().network
    sizes = {"channels": (8,), "res_blocks": 1, "width": 32, "depth": 2, "heads": 4}
    config.network.update(
      sizes | {"embed_dim": 8, "dtype": "float32", "classes": True, "remat": "none"}
    )
  config.teacher.batch_size = config.distill.batch_size = 16
  config.distill.updates = "joint"
  for optimizer in (config.distill.student_optimizer, config.distill.auxiliary_optimizer):
    optimizer.warmup_steps = 1
  return config


def parts_of(config, phase):
  """`init(key)`, `step` and batch size of a phase; distillation from a random teacher."""
  dataset = build.make_dataset(config)
  denoiser = build.make_denoiser(config, dataset)
  if phase == "teacher":
    optimizer = optimization.make_optimizer(config.teacher.optimizer, STEPS)
    step = teacher.make_step(config, denoiser, optimizer)
    init = lambda key: teacher.initial_state(denoiser.init(key), optimizer)
    return dataset, init, step, config.teacher.batch_size
  method = distill.make_method(config, dataset)

  def random_teacher(key):
    """Its output layer is zero at first: nothing would move."""
    params = nn.unbox(denoiser.init(key))
    kernel = 0.1 * jax.random.normal(key, params["logits"]["kernel"].shape)
    return params | {"logits": params["logits"] | {"kernel": kernel}}

  init = lambda key: method.init(key, random_teacher(jax.random.key(7)))
  size = config.distill.batch_size * method.batches_per_step
  return dataset, init, method.step, size


def losses(network, mesh, directory):
  """Those of a teacher in a few steps of the training loop."""
  dataset, init, step, size = parts_of(small_config(network), "teacher")
  job = training.Job(
    "teacher", STEPS, lambda key, _: init(key), step, Batches(dataset, size, seed=0)
  )
  config = digits_dmmd.get_config().run
  config.tensorboard = False
  found, add = [], training.TrainingLog.add

  def note(self, step, metrics):
    found.append([float(metrics[name]) for name in sorted(metrics) if name.endswith("loss")])
    add(self, step, metrics)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training.TrainingLog, "add", note)
    training.train(job, directory, config, mesh)
  return np.array(found)


@pytest.mark.parametrize(("network", "name"), [("transformer", "all"), ("uvit", "data")])
def test_the_losses_do_not_depend_on_the_mesh(network, name, tmp_path):
  """Those of a teacher; `phases/test_distill_sharded.py` has a step of every method."""
  expected, found = (
    losses(network, make_mesh(MESHES[mesh]), tmp_path / mesh) for mesh in ("one", name)
  )
  assert expected.shape[0] == STEPS and np.ptp(expected, axis=0).min() > 1e-5
  np.testing.assert_allclose(found, expected, atol=1e-4)


def bytes_per_device(abstract_state, shardings):
  sizes = jax.tree.map(
    lambda x, s: x.dtype.itemsize * np.prod(s.shard_shape(x.shape)), abstract_state, shardings
  )
  return sum(jax.tree.leaves(sizes))


@pytest.mark.parametrize("phase", ["teacher", "distill"])
@pytest.mark.parametrize("module", [cifar_dmmd, digits_dmmd])
def test_fsdp_splits_parameters_and_optimiser_evenly(phase, module):
  """At the sizes of the shipped configs; nothing is ever made."""
  config = module.get_config()
  if module is cifar_dmmd:
    config.dataset.name = "stripes"
  _, init, _, _ = parts_of(config, phase)
  boxed = jax.eval_shape(init, jax.random.key(0))
  state, meshes = nn.unbox(boxed), [make_mesh(MESHES[name]) for name in ("one", "fsdp")]
  whole, split = (bytes_per_device(state, parallel.state_shardings(m, boxed)) for m in meshes)
  assert split <= 1.15 / 8 * whole, (split, whole)


def compiled(network, sizes):
  """The program of a teacher's step."""
  mesh = make_mesh(sizes)
  dataset, init, step, size = parts_of(small_config(network), "teacher")
  boxed = jax.eval_shape(init, jax.random.key(0))
  shardings = parallel.state_shardings(mesh, boxed)
  state = jax.tree.map(
    lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), nn.unbox(boxed), shardings
  )
  split = parallel.batch_sharding(mesh)
  tokens = jax.ShapeDtypeStruct((size, *dataset.shape), np.int32, sharding=split)
  batch = Batch(tokens, jax.ShapeDtypeStruct((size,), np.int32, sharding=split))
  program = jax.jit(step, donate_argnums=0, out_shardings=(shardings, parallel.replicated(mesh)))
  with parallel.use(mesh):
    return program.lower(state, batch, jax.random.key(0)).compile().as_text(), state


def collectives(program, kind):
  """`(operation, shape)` of every collective of a kind in the text of a program."""
  found = re.findall(rf'= \(?\w+\[([\d,]*)\].* {kind}(?:-start)?\(.*op_name="([^"]*)"', program)
  return [(name, tuple(int(n) for n in shape.split(",") if n)) for shape, name in found]


@pytest.mark.parametrize("network", ["transformer", "uvit"])
def test_a_data_parallel_step_gathers_nothing(network):
  program, _ = compiled(network, MESHES["data"])
  assert not collectives(program, "all-gather")
  assert collectives(program, "all-reduce")  # gradients


def test_what_is_one_example_for_all_every_device_computes_for_itself():
  """Guidance by the prediction at masks alone: that of one device, and nothing is moved for it."""
  config = text_dmmd.get_config()
  config.network.update({"width": 32, "depth": 2, "remat": "none"})
  dataset = Dataset(np.zeros((1, 16), np.int32), np.zeros((1, 16), np.int32), 5)
  denoiser = build.make_denoiser(config, dataset).guided(1.5)
  rng = np.random.default_rng(0)
  shapes = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  params = jax.tree.map(lambda x: np.float32(0.3 * rng.normal(size=x.shape)), shapes)
  z, t = rng.integers(0, 6, (16, 16), np.int32), np.linspace(0.1, 1, 16, dtype=np.float32)
  found = []
  for mesh in (make_mesh(MESHES["one"]), make_mesh(MESHES["data"])):
    shardings = parallel.replicated(mesh), *[parallel.batch_sharding(mesh)] * 2
    given = jax.device_put((params, z, t), shardings)
    with parallel.use(mesh):
      program = jax.jit(lambda params, z, t: positions.whole(denoiser.log_mean(params, z, t)))
      compiled = program.lower(*given).compile()
    found.append(jax.device_get(compiled(*given)))
  np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-5)
  assert not re.findall(r"all-\w+|collective-\w+|reduce-scatter", compiled.as_text())


@pytest.mark.parametrize("network", ["transformer", "uvit"])
def test_an_fsdp_step_gathers_layer_by_layer(network):
  """What is gathered in a loop is one layer's, and outside of loops nothing has all layers."""
  program, state = compiled(network, MESHES["fsdp"])
  layers = state.model.params["layers"]
  gathered = collectives(program, "all-gather")
  in_loops = [(name, shape) for name, shape in gathered if "/while/body/" in name]
  for layer in ("qkv", "attended", "mlp_in", "mlp_out"):
    sizes = [np.prod(shape) for name, shape in in_loops if f"/layers/{layer}/" in name]
    parts = 3 if layer == "qkv" else 1  # queries, keys and values
    assert sizes.count(np.prod(layers[layer]["kernel"].shape[1:]) // parts) >= parts, gathered
  assert not {x.shape for x in jax.tree.leaves(layers)} & {shape for _, shape in gathered}
  largest = max(np.prod(x.shape[1:]) for x in jax.tree.leaves(layers))
  assert max(np.prod(shape) for _, shape in in_loops) <= largest


def test_a_process_places_the_rows_that_it_has_read():
  for sizes in ((8, 1, 1), (2, 2, 2), (1, 1, 8)):
    mesh = parallel.make_mesh(sizes)
    rows = parallel.local_rows(mesh, 16)
    np.testing.assert_array_equal(rows, np.arange(16))
    tokens = np.arange(48).reshape(16, 3)
    placed = parallel.place_batch(mesh, Batch(tokens), rows, 16)
    np.testing.assert_array_equal(placed.tokens, tokens)
    assert placed.labels is None
    shard = placed.tokens.addressable_shards[0]
    assert shard.data.shape == (16 // (sizes[0] * sizes[1]), 3)


def test_microbatches_give_the_same_update():
  """Of a loss that is a mean over examples; every part is split over the devices like the whole."""

  def loss(params, batch, key):
    value = np.float32(1) * ((batch.tokens @ params) ** 2).mean()
    return value, {"loss": value}

  params = jax.random.normal(jax.random.key(0), (3, 2))
  batch = Batch(jax.random.normal(jax.random.key(1), (16, 3)))
  whole, metrics = optimization.gradients(loss, params, batch, jax.random.key(2))
  for parts in (2, 8):
    grads, means = jax.jit(optimization.gradients, static_argnums=(0, 4))(
      loss, params, batch, jax.random.key(2), parts
    )
    np.testing.assert_allclose(grads, whole, rtol=1e-5)
    np.testing.assert_allclose(means["loss"], metrics["loss"], rtol=1e-5)
  rows = optimization.split_batch(np.arange(16), 2)
  np.testing.assert_array_equal(rows, [np.arange(0, 16, 2), np.arange(1, 16, 2)])


@pytest.mark.parametrize("size", [16, 6])
def test_examples_are_split_where_that_is_possible(size):
  """Each device sees its own, or all of them."""
  x = jnp.arange(2.0 * size).reshape(size, 2)
  seen = []
  with parallel.use(parallel.make_mesh((4, 2, 1))):
    assert parallel.batch_shards() == 8 and parallel.platform() == "cpu"
    double = lambda x: parallel.split_examples(lambda y: seen.append(y.shape) or 2.0 * y, x)
    np.testing.assert_array_equal(jax.jit(double)(x), 2.0 * x)
  assert seen[0] == ((2, 2) if size == 16 else (6, 2))
  assert parallel.batch_shards() == 1 and parallel.platform() is None
