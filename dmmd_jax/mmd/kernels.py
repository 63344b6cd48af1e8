"""Positive definite kernels on token sequences and on features.

A kernel is a small frozen value; `gram(x, y)` gives the block `k(x_i, y_j)`, float32 `[n, m]`.
Token kernels take int tokens `[n, D]`, feature kernels float `[n, F]`. What a kernel leaves open,
such as its number of categories or a bandwidth, `fit` takes from the pooled sample. Kernels add
and multiply: `Hamming(0.5) + Linear() * NGram(2)`.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

# The median heuristic looks at this many rows of the pooled sample.
_MEDIAN_ROWS = 1000
# Above it tokens are compared one by one: one-hot vectors would take more time, and all memory.
_ONE_HOT_CATEGORIES = 1024


@dataclasses.dataclass(frozen=True)
class Kernel:
  """What all kernels share."""

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """`k(x_i, y_j)`, float32 `[n, m]`."""
    raise NotImplementedError

  def fit(self, pooled: np.ndarray) -> "Kernel":
    """The kernel with everything that it leaves open taken from the pooled sample `[N, ...]`."""
    del pooled
    return self

  @property
  def takes_tokens(self) -> bool:
    """Whether inputs are tokens; otherwise they are features."""
    return False

  def __add__(self, other: "Kernel") -> "Sum":
    return Sum((self, other))

  def __mul__(self, other: "Kernel") -> "Product":
    return Product((self, other))


@dataclasses.dataclass(frozen=True)
class _Composite(Kernel):
  kernels: tuple[Kernel, ...]

  def fit(self, pooled: np.ndarray) -> Kernel:
    return dataclasses.replace(self, kernels=tuple(k.fit(pooled) for k in self.kernels))

  @property
  def takes_tokens(self) -> bool:
    return any(k.takes_tokens for k in self.kernels)


@dataclasses.dataclass(frozen=True)
class Sum(_Composite):
  """`k_1 + k_2 + ...`"""

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return sum(k.gram(x, y) for k in self.kernels)


@dataclasses.dataclass(frozen=True)
class Product(_Composite):
  """`k_1 k_2 ...`"""

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return math.prod(k.gram(x, y) for k in self.kernels)


@dataclasses.dataclass(frozen=True)
class _TokenKernel(Kernel):
  # K; tokens are in [0, K). None: the largest token of the pooled sample and one.
  num_categories: int | None = dataclasses.field(default=None, kw_only=True)

  def fit(self, pooled: np.ndarray) -> Kernel:
    largest = int(pooled.max())
    if self.num_categories is None:
      return dataclasses.replace(self, num_categories=largest + 1)
    if largest >= self.num_categories:
      raise ValueError(
        f"a token is {largest} but num_categories is {self.num_categories}; expected tokens below"
        " it: raise num_categories, or leave it out"
      )
    return self

  @property
  def takes_tokens(self) -> bool:
    return True

  def _require_categories(self) -> int:
    if self.num_categories is None:
      raise ValueError(f"{self} does not know the number of categories; set num_categories, or fit")
    return self.num_categories

  def _probabilities(self, x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Tokens int `[n, D]` as one-hot vectors `[n, D, K]`; probabilities as they are."""
    given = [v.shape[-1] for v in (x, y) if v.ndim == 3]
    size = given[0] if given else self._require_categories()
    return tuple(v.astype(jnp.float32) if v.ndim == 3 else jax.nn.one_hot(v, size) for v in (x, y))

  def _inner(self, x: jax.Array, y: jax.Array) -> jax.Array:
    """`sum_d <x_d, y_d>`, as one matrix product; for tokens the number of agreements."""
    if x.ndim == y.ndim == 2:
      return _count_agreements(x, y, self._require_categories())
    x, y = self._probabilities(x, y)
    return jnp.matmul(x.reshape(len(x), -1), y.reshape(len(y), -1).T, precision="highest")


def _count_agreements(x: jax.Array, y: jax.Array, num_categories: int) -> jax.Array:
  """In how many positions tokens `[n, D]` and `[m, D]` agree, float32 `[n, m]`, exactly.

  Of many categories tokens are compared position by position. Of few, accelerators multiply one-hot
  vectors in bf16. On CPUs several rows of `y` share one product: a
  count needs few of the 24 bits that float32 adds without error.
  """
  num_y, length = y.shape
  if num_categories > _ONE_HOT_CATEGORIES:
    agree = lambda counts, d: (counts + (x[:, d, None] == y[:, d]), None)
    counts = jnp.zeros((len(x), num_y), jnp.int32)
    return jax.lax.scan(agree, counts, jnp.arange(length))[0].astype(jnp.float32)
  if jax.default_backend() != "cpu":
    x, y = (jax.nn.one_hot(v, num_categories, dtype=jnp.bfloat16) for v in (x, y))
    return jnp.einsum("ndk,mdk->nm", x, y, preferred_element_type=jnp.float32)
  bits = length.bit_length()
  num_packed = max(24 // bits, 1)
  y = jnp.pad(y, [(0, -len(y) % num_packed), (0, 0)]).reshape(num_packed, -1, length)
  packed = sum(2.0 ** (i * bits) * jax.nn.one_hot(part, num_categories) for i, part in enumerate(y))
  x = jax.nn.one_hot(x, num_categories)
  counts = x.reshape(len(x), -1) @ packed.reshape(len(packed), -1).T
  counts = counts.astype(jnp.int32)
  parts = [(counts >> (i * bits)) & (2**bits - 1) for i in range(num_packed)]
  return jnp.concatenate(parts, 1)[:, :num_y].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Linear(_TokenKernel):
  """`sum_d 1[x_d = y_d] / D`: compares first moments only, so that an MMD of 0 is not equality.

  Either side may be probabilities `[n, D, K]`: the expectation over their factorised samples.
  """

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return self._inner(x, y) / x.shape[1]


@dataclasses.dataclass(frozen=True)
class Hamming(_TokenKernel):
  """`prod_d (c + (1 - c) 1[x_d = y_d])`, that is `c ** Hamming distance`: characteristic.

  `c` is in (0, 1); `exp(-1/h)` has a bandwidth of `h` tokens. None is `h = max(1, D/8)`. Either
  side may be probabilities `[n, D, K]`: then the exact expectation over their factorised samples,
  `prod_d (c + (1 - c) <p_d, q_d>)`.
  """

  c: float | None = None

  def __post_init__(self):
    if self.c is not None and not 0.0 < self.c < 1.0:
      raise ValueError(f"c of the Hamming kernel is {self.c}; expected a number in (0, 1)")

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    length = x.shape[1]
    c = math.exp(-1.0 / max(1.0, length / 8)) if self.c is None else self.c
    if x.ndim == y.ndim == 2:
      return jnp.exp(math.log(c) * (length - self._inner(x, y)))

    def add_position(log_k, position):
      agreement = jnp.matmul(position[0], position[1].T, precision="highest")
      return log_k + jnp.log(c + (1.0 - c) * agreement), None

    positions = tuple(jnp.moveaxis(v, 1, 0) for v in self._probabilities(x, y))
    log_k, _ = jax.lax.scan(add_position, jnp.zeros((len(x), len(y))), positions)
    return jnp.exp(log_k)


@dataclasses.dataclass(frozen=True)
class NGram(_TokenKernel):
  """Cosine of the vectors of n-gram counts: the order of a text, wherever in it.

  More than `num_buckets` possible n-grams are hashed into so many.
  """

  n: int = 2
  num_buckets: int = 4096

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(self._features(x), self._features(y).T, precision="highest")

  def _features(self, x: jax.Array) -> jax.Array:
    if x.shape[1] < self.n:
      raise ValueError(f"sequences of {x.shape[1]} tokens have no {self.n}-grams; use a smaller n")
    num_categories = self._require_categories()
    size = num_categories**self.n
    hashed = size > self.num_buckets
    codes = jnp.zeros((len(x), x.shape[1] - self.n + 1), jnp.uint32)
    for i in range(self.n):
      token = x[:, i : i + codes.shape[1]].astype(jnp.uint32)
      # Hashing: a polynomial modulo 2^32, whose high bits are mixed best.
      codes = codes * jnp.uint32(2654435761 if hashed else num_categories) + token
      codes = codes ^ (codes >> 15) if hashed else codes
    if hashed:
      codes = (codes * jnp.uint32(2246822519) >> 7) % self.num_buckets
    rows = jnp.arange(len(x))[:, None]
    counts = jnp.zeros((len(x), min(size, self.num_buckets))).at[rows, codes].add(1.0)
    return counts / jnp.linalg.norm(counts, axis=1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class RBF(Kernel):
  """`sum over bandwidths of exp(-|x - y|^2 / (2 bandwidth^2))` on features.

  Without bandwidths, `fit` takes 1/2, 1 and 2 times the median distance of the pooled sample.
  """

  bandwidths: tuple[float, ...] = ()

  def __post_init__(self):
    if any(b <= 0.0 for b in self.bandwidths):
      raise ValueError(f"bandwidths of the RBF kernel are {self.bandwidths}; expected more than 0")

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    if not self.bandwidths:
      raise ValueError("the RBF kernel has no bandwidths; set them, or fit")
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    # Distances do not change when the origin moves; near the data the squares cancel less.
    center = x.mean(0)
    x, y = x - center, y - center
    product = jnp.matmul(x, y.T, precision="highest")
    squares = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2.0 * product
    squares = jnp.maximum(squares, 0.0)
    return sum(jnp.exp(squares / (-2.0 * b * b)) for b in self.bandwidths)

  def fit(self, pooled: np.ndarray) -> "RBF":
    if self.bandwidths:
      return self
    some = np.asarray(pooled[:: -(-len(pooled) // _MEDIAN_ROWS)], np.float64)
    squares = (some**2).sum(1)
    squares = squares[:, None] + squares - 2.0 * some @ some.T
    median = math.sqrt(max(np.median(squares[np.triu_indices(len(some), 1)]), 0.0)) or 1.0
    return RBF((median / 2, median, 2 * median))


@dataclasses.dataclass(frozen=True)
class Polynomial(Kernel):
  """`(<x, y> scale + offset) ** degree` on features `[n, F]`, `scale = 1/F` if None.

  The defaults are the kernel of the Kernel Inception Distance (arXiv 1801.01401).
  """

  degree: int = 3
  scale: float | None = None
  offset: float = 1.0

  def gram(self, x: jax.Array, y: jax.Array) -> jax.Array:
    scale = 1.0 / x.shape[1] if self.scale is None else self.scale
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    product = jnp.matmul(x, y.T, precision="highest")
    return (scale * product + self.offset) ** self.degree
