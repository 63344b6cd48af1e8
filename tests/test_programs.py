"""The programs of a config, made of shapes alone."""

import jax
import pytest

from benchmarks import costs, programs
from dmmd_jax import config_file, parallel
from dmmd_jax.flops import flops, of_jaxpr

SMALL = {
  "text_dmmd": {"network.width": "32", "network.depth": "1", "network.heads": "2"},
  "cifar_dmmd": {"preset": "smoke"},
}


def load(name, **overrides):
  config, given = config_file.load(f"configs/{name}.py", SMALL.get(name, {}) | overrides)
  with config.unlocked():
    config_file.apply_preset(config, given)
  return config


@pytest.fixture(name="mesh", scope="module")
def make_mesh():
  return parallel.make_mesh((2, 2, 2))


def test_the_byte_pairs_of_gpt2_need_no_tokenizer():
  dataset = programs.dataset_of(load("owt_dmmd"))
  assert dataset.shape == (1024,) and dataset.num_categories == 50257


@pytest.mark.parametrize(("name", "num"), [("text_dmmd", 5), ("cifar_dmmd", 1)])
def test_every_program_of_a_config_has_shapes_that_fit_it(name, num, mesh):
  config = load(name)
  for program_name in programs.names(config)[:num]:
    program = programs.make(program_name, config, mesh)
    with parallel.use(mesh):
      traced = jax.jit(program.function).trace(*program.arguments)
    result = traced.out_info
    if program.donates:
      shapes = [jax.tree.map(lambda x: x.shape, tree) for tree in (result[0], program.arguments[0])]
      assert shapes[0] == shapes[1]
    function, arguments = program.share(mesh.size)
    # A device's share of the work is no less than its part.
    whole, part = of_jaxpr(traced.jaxpr).flops, flops(function, *arguments)
    assert whole / mesh.size <= part < whole


def test_a_device_holds_its_shard(mesh):
  config = load("text_dmmd")
  whole = programs.make("teacher", config, parallel.make_mesh((8, 1, 1)))
  split = programs.make("teacher", config, mesh)
  sizes = [programs.device_bytes(program.parts["parameters"]) for program in (whole, split)]
  # A quarter of most parameters, half or all of the rest.
  assert sizes[0] / 4 < sizes[1] < sizes[0] / 2


def test_a_compiled_program_tells_its_memory(mesh):
  program = programs.make("teacher", load("text_dmmd"), mesh)
  peak = costs.memory(programs.compile(program, mesh))
  assert peak > sum(programs.device_bytes(tree) for tree in program.parts.values())
