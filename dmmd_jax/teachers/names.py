"""Which parameter of ours is which tensor of theirs, and how the numbers lie in each.

Layers are one array of ours, `[depth, ...]`, and a tensor each of theirs. Tables of tokens are
filled up with rows of zeros, to a number that the axes of a mesh divide.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from dmmd_jax.networks.weights import WeightsError
from dmmd_jax.teachers.tensors import Tensor

# At most so many names in a message.
_NAMED = 3


@dataclasses.dataclass(frozen=True)
class Entry:
  """A parameter `path` of ours, and the `name` of theirs, in which `{}` is the number of a layer.

  `form` is how theirs becomes ours: `plain`; `transposed`; `qkv`, rows (three, head, feature) to
  columns (head, three, feature). The axis `vocabulary` of ours, if any, is filled up.
  """

  path: str
  name: str
  form: str = "plain"
  vocabulary: int | None = None

  @property
  def is_layered(self) -> bool:
    return "{}" in self.name

  def names(self, depth: int) -> list[str]:
    """Those of theirs, one for each layer if it has layers."""
    return [self.name.format(i) for i in range(depth)] if self.is_layered else [self.name]

  def shape_of_theirs(self, ours: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """That of the tensor of a layer, from the shape of our parameter."""
    shape = list(ours[1:] if self.is_layered else ours)
    if self.vocabulary is not None:
      shape[self.vocabulary] = vocab_size
    return tuple(shape if self.form == "plain" else shape[::-1])

  def to_ours(self, x: np.ndarray, heads: int, shape: tuple[int, ...]) -> np.ndarray:
    """One tensor of theirs as a layer of ours of `shape`."""
    if self.form == "transposed":
      x = x.T
    elif self.form == "qkv":
      x = x.reshape(3, heads, -1, x.shape[1]).transpose(3, 1, 0, 2).reshape(x.T.shape)
    missing = [(0, size - found) for size, found in zip(shape, x.shape, strict=True)]
    return np.pad(x, missing) if any(sum(pair) for pair in missing) else x

  def to_theirs(self, x: np.ndarray, heads: int, vocab_size: int) -> np.ndarray:
    """The inverse of `to_ours`."""
    if self.vocabulary is not None:
      x = x.take(range(vocab_size), self.vocabulary)
    if self.form == "qkv":
      x = x.reshape(len(x), heads, 3, -1).transpose(2, 1, 3, 0).reshape(x.T.shape)
    elif self.form == "transposed":
      x = x.T
    return np.ascontiguousarray(x)


def leaf(tree: Any, path: str) -> Any:
  """What a nested dict has at `a/b/c`."""
  for name in path.split("/"):
    tree = tree[name]
  return tree


def has(tree: Any, path: str) -> bool:
  try:
    leaf(tree, path)
  except (KeyError, TypeError):
    return False
  return True


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
  """The tree with leaves at their paths."""
  tree: dict[str, Any] = {}
  for path, value in leaves.items():
    *folders, last = path.split("/")
    inner = tree
    for folder in folders:
      inner = inner.setdefault(folder, {})
    inner[last] = value
  return tree


def check(
  where: Any, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], buffers: list[str]
) -> None:
  """Every name and shape is as expected, and no others are there but `buffers` and theirs.

  Raises `WeightsError` with one line that names what is missing, left over, or of a wrong shape.
  """
  missing = [name for name in expected if name not in tensors]
  left = [n for n in tensors if n not in expected and not any(re.fullmatch(b, n) for b in buffers)]
  wrong = [
    f"{name} {tensors[name].shape} in place of {shape}"
    for name, shape in expected.items()
    if name in tensors and tensors[name].shape != shape
  ]
  found = [
    f"{what} {_some(names)}"
    for what, names in (("lacks", missing), ("has besides", left), ("has of another shape", wrong))
    if names
  ]
  if found:
    raise WeightsError(f"{where} {'; '.join(found)}; get it again, or give another --kind")


def _some(names: list[str]) -> str:
  more = len(names) - _NAMED
  return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def count_layers(names: Iterable[str], pattern: str) -> int:
  """How many numbers `{}` has in the names that match a pattern with it."""
  regex = re.compile(re.escape(pattern).replace(re.escape("{}"), r"(\d+)"))
  return len({match[1] for name in names if (match := regex.fullmatch(name))})


def part_reader(
  entry: Entry, tensors: dict[str, Tensor], shape: tuple[int, ...], heads: int
) -> Callable[[tuple[slice, ...]], np.ndarray]:
  """`part(index)` of our parameter of `shape`, what a device holds of it, in float32.

  It reads a tensor at a time, and those layers alone that `index` asks for.
  """

  def part(index: tuple[slice, ...]) -> np.ndarray:
    ranges = [range(*one.indices(size)) for one, size in zip(index, shape, strict=True)]
    result = np.empty([len(r) for r in ranges], np.float32)
    if not entry.is_layered:
      result[...] = entry.to_ours(tensors[entry.name].read(), heads, shape)[index]
      return result
    for place, i in enumerate(ranges[0]):
      layer = entry.to_ours(tensors[entry.name.format(i)].read(), heads, shape[1:])
      result[place] = layer[index[1:]]
    return result

  return part


def to_theirs(
  entries: list[Entry], params: Any, heads: int, vocab_size: int
) -> Iterator[tuple[str, np.ndarray]]:
  """Tensors of theirs by name, one at a time, of our parameters, arrays that NumPy can read."""
  for entry in entries:
    ours = np.asarray(leaf(params, entry.path))
    depth = len(ours) if entry.is_layered else 1
    for i, name in enumerate(entry.names(depth)):
      yield name, entry.to_theirs(ours[i] if entry.is_layered else ours, heads, vocab_size)


def num_parameters(shapes: Iterable[tuple[int, ...]]) -> int:
  return sum(map(math.prod, shapes))
