"""What a training phase takes is said before it has taken it, and changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax import checkpoints, estimate, parallel
from dmmd_jax.progress import duration
from dmmd_jax.speed import Speed

SIZE = 16


class Model(dict):
  """A part of a state that is trained."""

  params = property(lambda self: self["params"])


jax.tree_util.register_pytree_with_keys(
  Model,
  lambda model: ([(jax.tree_util.DictKey("params"), model["params"])], None),
  lambda _, children: Model(params=children[0]),
)


def step(state, batch, step):
  params = state["model"].params
  params = params - 0.1 * (batch @ params) * step
  return {"model": Model(params=params)}, {"loss": params.sum()}


def announced(num_steps=100, start=0, step_fn=None):
  mesh = parallel.make_mesh()
  state = {"model": Model(params=jnp.ones((SIZE, SIZE)))}
  state = jax.device_put(state, parallel.replicated(mesh))
  abstract = checkpoints.abstract_like(state, jax.tree.map(lambda x: x.sharding, state))
  step_fn = step_fn or jax.jit(step)
  speed = Speed(SIZE, mesh)
  announced = estimate.Announced("teacher", step_fn, abstract, range(start, num_steps), mesh, speed)
  return announced, state


def batch(i):
  return np.full((SIZE, SIZE), i, np.float32) / 1000


def test_parameters_and_memory_are_said_before_the_first_step(capsys):
  announced()
  memory = 4 * SIZE * SIZE * len(jax.devices())  # replicated on devices that share a memory
  assert capsys.readouterr().err == f"teacher: 256 parameters, {memory / 2**20:.3g} MiB of state\n"
  announced(num_steps=3, start=3)
  assert capsys.readouterr().err == ""


def test_several_models_are_told_apart():
  models = {name: Model(params=jnp.ones(size)) for name, size in (("a", 3), ("student", 1200))}
  assert estimate.count_parameters(models | {"teacher": jnp.ones(5)}) == "a 3, student 1,200"


def test_steps_are_those_of_the_function_itself():
  own = jax.jit(step)
  said, state = announced(step_fn=jax.jit(step))
  expected = state
  for i in range(5):
    expected, metrics = own(expected, batch(i), i)
    state, found = said(state, batch(i), i)
    np.testing.assert_array_equal(state["model"].params, expected["model"].params)
    assert found["loss"] == metrics["loss"]


def test_the_time_left_is_said_once_from_a_few_steps(monkeypatch, capsys):
  said, state = announced(num_steps=1000, start=100)
  said._say_least_time = lambda jaxpr: None  # measures the speed of products
  capsys.readouterr()
  for i in range(100, 115):
    # The first steps, with compilation, take longer.
    now = 30.0 * i if i >= 102 else 0.0
    monkeypatch.setattr(estimate.time, "perf_counter", lambda now=now: now)
    state, _ = said(state, batch(i), i)
  out = capsys.readouterr().err
  assert out.count("a step, about") == 1
  assert "of memory, 30 s a step, about 7 h 28 min for 895 steps" in out


def test_a_run_that_is_too_long_is_said_before_it_is_compiled(monkeypatch, capsys):
  monkeypatch.setattr(estimate, "matrix_speed", lambda: 1.0)
  said, state = announced(num_steps=100)
  said(state, batch(0), 0)
  out = capsys.readouterr().err
  least = duration(100 * 2 * SIZE**3)
  assert f"at least {least}" in out and "warning: that is too long for a CPU" in out


def test_a_machine_with_too_little_memory_is_warned_of(monkeypatch, capsys):
  monkeypatch.setattr(estimate, "memory_of", lambda device: 100)
  said, state = announced()
  out = capsys.readouterr().err
  assert "warning: it needs" in out and "lower teacher.batch_size" in out
  said(state, batch(0), 0)
  assert "warning: it needs" in capsys.readouterr().err


def test_memory_is_that_of_the_machine_or_of_its_container(tmp_path, monkeypatch):
  whole = estimate.memory_of(jax.devices()[0])
  assert 2**28 < whole < 2**50
  limit = tmp_path / "memory.max"
  monkeypatch.setattr(estimate, "_CONTAINER_LIMIT", limit)
  for text, expected in (("max\n", None), ("1000\n", 1000)):
    limit.write_text(text)
    found = estimate.memory_of(jax.devices()[0])
    assert found == expected or (expected is None and found >= whole)


def test_the_speed_of_products_is_measured():
  assert 1e8 < estimate.matrix_speed() < 1e16
