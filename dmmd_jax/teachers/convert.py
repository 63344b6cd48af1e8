"""Makes a teacher that others have trained the finished phase `teacher` of a workdir."""

import json
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from dmmd_jax import checkpoints, config_file, parallel, records
from dmmd_jax import config as config_checks
from dmmd_jax.data.pipeline import Dataset
from dmmd_jax.integrity import by_contents, sha256
from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.phases import build
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.phases.teacher import result_of
from dmmd_jax.teachers import names
from dmmd_jax.teachers.kinds import KINDS, Kind
from dmmd_jax.teachers.tensors import Source

# The number of the one checkpoint that there is.
_STEP = 1
# Beside the checkpoint: what the source has besides parameters, to be written back as it was.
ORIGIN, BUFFERS = "origin.json", "buffers.npz"


def make_config(kind: str, sizes: dict[str, Any], overrides: dict[str, Any]) -> ConfigDict:
  """The config of a kind of teacher with the `sizes` of its network, and further fields.

  Raises `ConfigError` where they make no sense together.
  """
  config, _ = config_file.load(KINDS[kind].config, {})
  given = {f"network.{name}": value for name, value in sizes.items()} | overrides
  for field, value in given.items():
    config_file.assign(config, field, value)
  config_checks.apply_preset(config, given)
  config_checks.check(config)
  return config


def make_denoiser(config: ConfigDict, student: bool = False) -> Denoiser:
  """The network of the teacher or student, for which neither data nor a tokenizer are needed."""
  network = config.network
  num = network.vocab_size - (network.mask_token == network.vocab_size - 1)
  nothing = np.zeros((0, config.dataset.length), np.int32)
  return build.make_denoiser(config, Dataset(nothing, nothing, num), student)


def convert(
  config: ConfigDict,
  kind_name: str,
  source: Source,
  where: Any,
  workdir: epath.Path,
  mesh: jax.sharding.Mesh,
) -> int:
  """Writes the teacher into `<workdir>/teacher`, and returns its number of parameters.

  Nothing is written before all of it was read. Raises `WeightsError` for names or shapes that are
  not those of its kind, for numbers that are none, and where there is a teacher already.
  """
  folder = workdir / "teacher"
  if records.has_begun(folder):
    raise WeightsError(f"there is a teacher in {folder}; choose another --workdir")
  kind = KINDS[kind_name]
  params = load(config, kind, source, where, mesh)
  origin = {
    "kind": kind_name,
    "files": {file.name: sha256(epath.Path(file)) for file in source.files},
  }
  own = records.own_config(config, "teacher")
  now = records.depends(own, "teacher", {"origin": records.Source(None, origin)})
  is_first = jax.process_index() == 0
  if is_first:
    records.begin(folder, now)
    _keep_the_rest(folder, config, kind, source)
  least = checkpoints.least_at_once(params)
  with checkpoints.open_manager(folder / "checkpoints", 1, written_at_once=least) as manager:
    checkpoints.save(manager, _STEP, {"ema": params}, now)
    manager.wait_until_finished()
  result = result_of(folder, _STEP, params)
  if is_first:
    result["files"] |= by_contents(folder, [ORIGIN, BUFFERS])
    records.finish(folder, now, result, parallel.describe(mesh))
  return names.num_parameters(x.shape for x in jax.tree.leaves(params))


def load(config: ConfigDict, kind: Kind, source: Source, where: Any, mesh) -> Any:
  """The parameters, sharded over a mesh; each process reads what its devices hold."""
  init = make_denoiser(config).init
  boxed = jax.eval_shape(init, jax.random.key(0))
  abstract, shardings = nn.unbox(boxed), parallel.state_shardings(mesh, boxed)
  network = config.network
  entries = [with_prefix(entry, kind.prefix) for entry in kind.entries(network)]
  expected = {
    name: entry.shape_of_theirs(names.leaf(abstract, entry.path).shape, network.vocab_size)
    for entry in entries
    for name in entry.names(network.depth)
  }
  names.check(where, source.tensors, expected, kind.buffers)
  leaves = {}
  for entry in entries:
    shape = names.leaf(abstract, entry.path).shape
    part = names.part_reader(entry, source.tensors, shape, network.heads)
    sharding = names.leaf(shardings, entry.path)
    leaves[entry.path] = _place(shape, sharding, _finite(entry, part, where))
  return names.nested(leaves)


def _place(shape: tuple[int, ...], sharding: jax.sharding.Sharding, part) -> jax.Array:
  """An array of the `part(index)` of each device, of which the host has one at a time."""
  indices = sharding.addressable_devices_indices_map(shape)
  shards = [jax.device_put(part(i), device).block_until_ready() for device, i in indices.items()]
  return jax.make_array_from_single_device_arrays(shape, sharding, shards)


def with_prefix(entry: names.Entry, prefix: str) -> names.Entry:
  return names.Entry(entry.path, prefix + entry.name, entry.form, entry.vocabulary)


def _finite(entry: names.Entry, part, where: Any):
  def checked(index):
    result = part(index)
    if not np.isfinite(result).all():
      raise WeightsError(f"{where} has NaN or infinity in {entry.name}; get it again")
    return result

  return checked


def _keep_the_rest(folder: epath.Path, config: ConfigDict, kind: Kind, source: Source) -> None:
  """Buffers, types and `config.json`, which say nothing new, but are a part of the files."""
  parameters = {
    kind.prefix + name
    for entry in kind.entries(config.network)
    for name in entry.names(config.network.depth)
  }
  dtypes = {name: str(x.dtype) for name, x in source.tensors.items()}
  text = json.dumps({"config": source.config, "dtypes": dtypes}, indent=1)
  (folder / ORIGIN).write_text(text + "\n")
  buffers = {
    n: x.read().astype(np.float32) for n, x in source.tensors.items() if n not in parameters
  }
  with (folder / BUFFERS).open("wb") as file:
    np.savez(file, **buffers)
