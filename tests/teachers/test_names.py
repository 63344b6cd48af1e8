"""Which parameter of ours is which tensor of theirs, and back."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from dmmd_jax.teachers import convert, names
from dmmd_jax.teachers.kinds import KINDS
from dmmd_jax.teachers.tensors import Tensor, open_source
from tests.teachers.made import FOLDERS, loaded, tensors


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_every_tensor_has_the_same_bits(kind):
  config, params = loaded(kind)
  entries = [
    convert.with_prefix(e, KINDS[kind].prefix) for e in KINDS[kind].entries(config.network)
  ]
  network, theirs = config.network, tensors(FOLDERS[kind])
  back = dict(names.to_theirs(entries, params, network.heads, network.vocab_size))
  assert {n for n in theirs if "inv_freq" not in n} == back.keys()
  for name, x in back.items():
    np.testing.assert_array_equal(x.astype(theirs[name].dtype), theirs[name], strict=True)


def test_rows_of_queries_keys_and_values_become_columns_by_heads():
  """The column of head h, part i, feature f is the row of part i, head h, feature f."""
  heads, features, width = 2, 3, 6
  theirs = np.arange(3 * width * width).reshape(3 * width, width)
  entry = names.Entry("layers/qkv/kernel", "blocks.{}.attn_qkv.weight", "qkv")
  ours = entry.to_ours(theirs, heads, (width, 3 * width))
  for part, head, feature in np.ndindex(3, heads, features):
    row = theirs[part * width + head * features + feature]
    np.testing.assert_array_equal(ours[:, (head * 3 + part) * features + feature], row)
  np.testing.assert_array_equal(entry.to_theirs(ours, heads, 0), theirs)


def test_tables_are_filled_up_with_zeros_and_cut_again():
  x = np.arange(6.0).reshape(3, 2)
  for entry, shape in (
    (names.Entry("tokens", "x", vocabulary=0), (5, 2)),
    (names.Entry("logits/kernel", "x", "transposed", vocabulary=1), (2, 5)),
  ):
    ours = entry.to_ours(x, 1, shape)
    assert ours.shape == shape and ours.sum() == x.sum()
    assert entry.shape_of_theirs(shape, 3) == x.shape
    np.testing.assert_array_equal(entry.to_theirs(ours, 1, 3), x)


def test_a_device_reads_only_the_layers_that_it_holds():
  read = []

  def tensor(i):
    return Tensor((2, 3), np.dtype("float32"), lambda: read.append(i) or np.full((2, 3), i))

  found = {f"b.{i}.w": tensor(i) for i in range(4)}
  part = names.part_reader(names.Entry("layers/w", "b.{}.w", "transposed"), found, (4, 3, 2), 1)
  index = np.s_[1:3, 0:2, :]
  np.testing.assert_array_equal(part(index), [np.full((2, 2), 1), np.full((2, 2), 2)])
  assert read == [1, 2]


def test_messages_count_what_they_do_not_name():
  found = {"x": Tensor((1,), np.dtype("float32"), None)}
  expected = {f"n{i}": (1,) for i in range(5)} | {"x": (2,)}
  message = r"lacks n0, n1, n2 and 2 more; has of another shape x \(1,\) in place of \(2,\); get"
  with pytest.raises(convert.WeightsError, match=message):
    names.check("here", found, expected, [])


def test_sharded_parameters_are_those_of_one_device():
  """Each device reads the parts that it holds, here of a mesh of one by two by two."""
  config, params = loaded("llada")
  mesh = Mesh(np.array(jax.devices()[:4]).reshape(1, 2, 2), ("data", "fsdp", "tensor"))
  sharded = convert.load(config, KINDS["llada"], open_source(FOLDERS["llada"]), "llada", mesh)
  assert len(sharded["layers"]["mlp_in"]["kernel"].addressable_shards[0].data[0]) == 8
  jax.tree.map(np.testing.assert_array_equal, sharded, params)
