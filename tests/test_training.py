"""The loop: resuming bit for bit, stopping, refusing what is not finite, any number of devices."""

import dataclasses
import os
import pathlib
import re
import signal
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

from dmmd_jax import checkpoints, optimization, parallel, training
from dmmd_jax.training_log import NonFiniteError

RUN = ConfigDict(
  {
    "seed": 0,
    "log_every": 5,
    "checkpoint_every": 4,
    "keep_checkpoints": 2,
    "tensorboard": False,
    "profile": (),
  }
)


def job(num_steps=10, poison_at=None):
  """Noisy regression, with a network as small as they come."""
  optimizer = optax.adam(0.1)

  def init(key, given):
    kernel = nn.LogicallyPartitioned(jax.random.normal(key, (8, 4)), names=("embed", "mlp"))
    return {
      "model": optimization.Trainable.create({"kernel": kernel}, optimizer),
      "seen": jnp.array(0),
    }

  def step(state, batch, key):
    def loss(params):
      noise = jax.random.normal(key, (len(batch), 8))
      return jnp.square((batch + noise) @ params["kernel"] - 1.0).mean()

    value, grads = jax.value_and_grad(loss)(state["model"].params)
    if poison_at is not None:
      value = jnp.where(state["seen"] == poison_at, jnp.nan, value)
    model = state["model"].update(grads, optimizer)
    return {"model": model, "seen": state["seen"] + 1}, {"loss": value}

  return training.Job("test", num_steps, init, step, Rows())


class Rows:
  """Batches whose number is their content."""

  size = 8

  def read(self, start, rows):
    for i in range(start, 1000):
      yield np.full((len(rows), 8), i, np.float32) / 100


def equal(a, b):
  return all(
    (np.asarray(x) == np.asarray(y)).all()
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  )


def saved_steps(directory):
  return sorted(int(p.name) for p in (directory / "checkpoints").iterdir() if p.name.isdecimal())


def test_a_resumed_run_ends_bit_identical_and_keeps_the_last_checkpoints(tmp_path, capsys):
  mesh = parallel.make_mesh()
  whole = training.train(job(), tmp_path / "whole", RUN, mesh)
  with pytest.raises(NonFiniteError):
    training.train(job(poison_at=6), tmp_path / "broken", RUN, mesh)
  capsys.readouterr()
  resumed = training.train(job(), tmp_path / "broken", RUN, mesh)
  assert equal(whole, resumed) and int(resumed["seen"]) == 10
  size, *said = capsys.readouterr().err.splitlines()
  assert size.startswith("test: 32 parameters, ")
  assert said[:2] == ["test: going on at step 4 of 10", "test: compiling …"]
  assert said[2].startswith("test: compiled in ") and said[3].startswith("test: 10/10 steps, ")
  loss, speed = re.search(r", loss (\S+), examples/s (\S+)$", said[3]).groups()
  assert len(said) == 4 and 0 < float(loss) < 1e6 and float(speed) > 0
  assert saved_steps(tmp_path / "whole") == [8, 10]


def test_a_loss_that_is_not_finite_stops_and_is_never_saved(tmp_path):
  for poison_at in (3, 5):  # step 4 is a checkpoint: the poison of index 3 arrives with it
    directory = tmp_path / str(poison_at)
    kept = "nothing is saved yet" if poison_at == 3 else "the checkpoint of step 4 is kept"
    message = f"loss is nan at step {poison_at + 1}; {kept}"
    with pytest.raises(NonFiniteError, match=message):
      training.train(job(poison_at=poison_at), directory, RUN, parallel.make_mesh())
    assert saved_steps(directory) == ([] if poison_at == 3 else [4])


def test_a_signal_saves_and_the_next_run_goes_on(tmp_path):
  mesh = parallel.make_mesh()

  class Stopping(Rows):
    def read(self, start, rows):
      for i, batch in enumerate(super().read(start, rows)):
        if i == 2:
          os.kill(os.getpid(), signal.SIGTERM)
        yield batch

  stopping = dataclasses.replace(job(), batches=Stopping())
  with pytest.raises(training.StoppedError, match="at step 3, saved") as stopped:
    training.train(stopping, tmp_path / "a", RUN, mesh)
  assert stopped.value.number == signal.SIGTERM
  assert saved_steps(tmp_path / "a") == [3]
  resumed = training.train(job(), tmp_path / "a", RUN, mesh)
  assert equal(resumed, training.train(job(), tmp_path / "b", RUN, mesh))


def test_a_signal_in_the_last_step_stops_before_the_next_phase(tmp_path):
  class Stopping(Rows):
    def read(self, start, rows):
      for i, batch in enumerate(super().read(start, rows)):
        if i == 9:
          os.kill(os.getpid(), signal.SIGTERM)
        yield batch

  stopping = dataclasses.replace(job(), batches=Stopping())
  with pytest.raises(training.StoppedError, match="at step 10, saved"):
    training.train(stopping, tmp_path, RUN, parallel.make_mesh())


def test_a_finished_job_does_nothing_but_restore(tmp_path, capsys):
  mesh = parallel.make_mesh()
  first = training.train(job(), tmp_path, RUN, mesh)
  capsys.readouterr()
  assert equal(first, training.train(job(), tmp_path, RUN, mesh))
  assert capsys.readouterr().err == ""


def test_an_average_is_that_of_what_was_trained_without_the_start():
  optimizer = optax.sgd(1.0)
  model = optimization.Trainable.create(jnp.array(100.0), optimizer)
  ema, seen = model.params, []
  for grad in (99.0, -1.0, -2.0):
    model = model.update(jnp.array(grad), optimizer)
    ema = optimization.average(ema, model, 0.9)
    seen.append(float(ema))
  weights = 0.9 ** np.arange(3)[::-1]
  assert seen[0] == pytest.approx(1.0, rel=1e-3)
  np.testing.assert_allclose(seen[2], weights @ [1.0, 2.0, 4.0] / weights.sum(), rtol=1e-3)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_states_are_split_as_the_rules_say_and_go_on_from_another_mesh(tmp_path, axes):
  mesh = parallel.make_mesh(axes)
  one = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)
  with pytest.raises(NonFiniteError):
    training.train(job(poison_at=6), tmp_path / "many", RUN, one)
  assert saved_steps(tmp_path / "many") == [4]
  state = training.train(job(), tmp_path / "many", RUN, mesh)
  kernel = state["model"].params["kernel"]
  assert kernel.addressable_shards[0].data.shape == (8 // axes[1], 4 // axes[2])
  moments = state["model"].opt_state[0].mu["kernel"]
  assert moments.sharding == kernel.sharding
  alone = training.train(job(), tmp_path / "one", RUN, one)
  np.testing.assert_allclose(kernel, alone["model"].params["kernel"], atol=1e-5)


def test_an_axis_that_the_mesh_does_not_divide_is_not_split():
  mesh = parallel.make_mesh((2, 1, 4))
  table = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((27, 8), jnp.float32), ("vocab", "mlp"))
  even = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((28, 8), jnp.float32), ("vocab", None))
  shardings = parallel.state_shardings(mesh, {"table": table, "even": even})
  assert shardings["table"].spec == jax.sharding.PartitionSpec(None, None)
  assert shardings["even"].spec == jax.sharding.PartitionSpec("tensor", None)


def test_a_part_of_a_checkpoint_can_be_read(tmp_path):
  mesh = parallel.make_mesh()
  state = training.train(job(), tmp_path, RUN, mesh)
  abstract = {"seen": jax.ShapeDtypeStruct((), jnp.int32, sharding=parallel.replicated(mesh))}
  part = checkpoints.restore_part(tmp_path / "checkpoints", 10, abstract)
  assert set(part) == {"seen"} and int(part["seen"]) == int(state["seen"])


def optimizer_config(**overrides):
  values = {
    "learning_rate": 1.0, "warmup_steps": 10, "decay": "constant", "b1": 0.9, "b2": 0.99,
    "moments": "float32", "weight_decay": 0.0, "clip_norm": 1.0,
  }  # fmt: skip
  return ConfigDict(values | overrides)


@pytest.mark.parametrize(
  ("decay", "expected"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)]
)
def test_learning_rate_warms_up_then_decays(decay, expected):
  optimizer = optimization.make_optimizer(optimizer_config(decay=decay), 110)
  params = jnp.zeros(3)
  state, sizes = optimizer.init(params), []
  for _ in range(111):
    updates, state = optimizer.update(jnp.ones(3), state, params)
    sizes.append(float(-updates[0]))
  np.testing.assert_allclose([sizes[0], sizes[5], sizes[10]], [0.0, 0.5, 1.0], atol=1e-3)
  np.testing.assert_allclose(sizes[60], expected, atol=1e-3)


TOY = [
  "--config=configs/toy_dmmd.py",
  "--config.run.tensorboard=False",
  "--config.run.checkpoint_every=7",
  "--config.network.width=32",
  "--config.network.depth=1",
  "--config.teacher.batch_size=32",
  "--config.distill.batch_size=32",
]


def newest(phase_dir):
  folder = phase_dir / "checkpoints"
  return max((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), default=0)


def final_files(workdir, phase, step):
  """The final state of a phase as NumPy arrays, on whatever devices it was."""
  path = pathlib.Path(workdir).absolute() / phase / "checkpoints" / str(step) / "default"
  with ocp.PyTreeCheckpointer() as checkpointer:
    tree = checkpointer.metadata(path).item_metadata.tree
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    return checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))


def test_killed_twice_and_restarted_ends_bit_identical(programs, tmp_path):
  def start(workdir):
    return programs.start("dmmd_jax.main", (*TOY, *args, f"--workdir={workdir}"))

  args = [
    "--config.phases=('teacher','distill')",
    "--config.teacher.num_steps=28",
    "--config.distill.num_steps=28",
    "--config.distill.updates=joint",
  ]
  assert start(tmp_path / "whole").wait(300).code == 0
  broken, rng, kills = tmp_path / "broken", np.random.default_rng(), 0
  for phase in ("teacher", "distill"):
    after = rng.integers(1, 21)
    process = start(broken)
    deadline = time.time() + 120
    while newest(broken / phase) < after and not process.poll() and time.time() < deadline:
      time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    kills += process.wait(10).code == -signal.SIGKILL
  assert kills  # the machine may outrun one
  assert start(broken).wait(300).code == 0
  for phase in ("teacher", "distill"):
    assert equal(final_files(tmp_path / "whole", phase, 28), final_files(broken, phase, 28))
