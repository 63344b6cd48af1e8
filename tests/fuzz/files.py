"""Wrong files: texts, images and arrays that are damaged, or not what they should be."""

import io
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from tests.fuzz.cases import Case

# Small, should one of these be accepted.
_TEXT = (
  "--config=configs/text_dmmd.py", "--config.dataset.name=textfile",
  "--config.dataset.path={folder}/given", "--config.dataset.length=16", "--config.network.width=16",
  "--config.run.tensorboard=False",
)  # fmt: skip
_IMAGES = (
  "--config=configs/cifar_dmmd.py", "--config.preset=smoke", "--config.run.data_workers=0",
  "--config.run.tensorboard=False", "--config.dataset.shape=(16,16,3)",
)  # fmt: skip
# A text run to draw from, as small as they come.
TEXT_RUN = (
  "--config=configs/text_dmmd.py", "--config.phases=('teacher',)", "--config.dataset.length=16",
  "--config.run.tensorboard=False", "--config.network.width=16", "--config.network.depth=1",
  "--config.network.heads=2", "--config.teacher.num_steps=1", "--config.teacher.batch_size=8",
)  # fmt: skip
Write = Callable[[pathlib.Path], object]


def _bytes(content: bytes) -> Write:
  return lambda path: path.write_bytes(content)


def _nothing(path: pathlib.Path) -> None:
  """The file is absent."""


def _folder(files: dict[str, bytes]) -> Write:
  def write(path):
    path.mkdir()
    for name, content in files.items():
      (path / name).parent.mkdir(parents=True, exist_ok=True)
      (path / name).write_bytes(content)

  return write


def _cut(content: bytes, rng: np.random.Generator) -> bytes:
  return content[: rng.integers(1, len(content) - 1)]


def _npz(**arrays) -> bytes:
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


def _npy(array) -> bytes:
  file = io.BytesIO()
  np.save(file, array, allow_pickle=True)
  return file.getvalue()


def _png(rng: np.random.Generator, size=(16, 16), mode="RGB") -> bytes:
  shape = (*size, 3) if mode == "RGB" else size
  file = io.BytesIO()
  Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(file, "png")
  return file.getvalue()


def texts(rng: np.random.Generator) -> Iterator[tuple[str, Write]]:
  words = " ".join(rng.choice(["red", "old", "cat", "sees", "two"], 2000))
  yield "absent", _nothing
  yield "empty", _bytes(b"")
  yield "white", _bytes(b" \n\n" * rng.integers(1, 200))
  yield "too short", _bytes(words[: rng.integers(1, 30)].encode())
  yield "binary", _bytes(b"\0" + rng.bytes(2000))
  yield "utf-16", _bytes(words.encode("utf-16"))
  yield "latin-1", _bytes((words + " caf\u00e9").encode("latin-1"))
  yield "other script", _bytes((words + " \u03bb\u03cc\u03b3\u03bf\u03c2" * 9).encode())
  yield "empty folder", _folder({})
  yield "hidden files", _folder({".a.txt": words.encode()})
  yield "one binary", _folder({"a.txt": words.encode(), "b.txt": b"\xff\xfe\0" + rng.bytes(99)})


def archives(rng: np.random.Generator) -> Iterator[tuple[str, Write]]:
  num = int(rng.integers(20, 40))
  images = rng.integers(0, 256, (num, 16, 16, 3), dtype=np.uint8)
  labels = rng.integers(0, 10, num)
  whole = _npz(train=images, train_labels=labels)
  wrong = {
    "channels first": {"train": images.transpose(0, 3, 1, 2)},
    "fractions": {"train": images / 255.0},
    "negative pixels": {"train": images.astype(int) - 255},
    "bright pixels": {"train": images.astype(int) + 256},
    "negative labels": {"train": images, "train_labels": labels - 10},
    "huge labels": {"train": images, "train_labels": labels + 10**12},
    "labels of others": {"train": images, "train_labels": labels[1:]},
    "fractional labels": {"train": images, "train_labels": labels + 0.5},
    "no images": {"train": images[:0]},
    "flat": {"train": images.reshape(num, -1)},
    "unknown names": {"pictures": images},
    "another test": {"train": images, "test": images[:, :8]},
    "pickled": {"train": np.array([images, None], dtype=object)},
    "one image": {"train": images[:1]},
  }
  yield "absent", _nothing
  yield "empty", _bytes(b"")
  yield "truncated", _bytes(_cut(whole, rng))
  yield "no zip", _bytes(rng.bytes(500))
  yield "npy", _bytes(_npy(images))
  yield "a folder", _folder({"a.npz": whole})
  for name, arrays in wrong.items():
    yield name, _bytes(_npz(**arrays))


def folders(rng: np.random.Generator) -> Iterator[tuple[str, Write]]:
  images = {f"{i:02}.png": _png(rng) for i in range(20)}
  at = f"{rng.integers(20):02}.png"
  cut = images[at][: rng.integers(60, len(images[at]) - 20)]  # behind the header
  yield "absent", _nothing
  yield "a file", _bytes(_png(rng))
  yield "empty", _folder({})
  yield "no png", _folder({"a.txt": b"a", "b.jpg": b"b"})
  yield "one image", _folder({"a.png": _png(rng)})
  yield "truncated", _folder(images | {at: cut})
  yield "cut in the header", _folder(images | {at: images[at][: rng.integers(1, 30)]})
  yield "not an image", _folder(images | {at: rng.bytes(300)})
  yield "empty image", _folder(images | {at: b""})
  yield "mixed sizes", _folder(images | {at: _png(rng, (16, 8))})
  yield "mixed modes", _folder(images | {at: _png(rng, mode="L")})
  yield "other size", _folder({name: _png(rng, (8, 8)) for name in images})
  yield "no test", _folder({f"train/{n}": x for n, x in images.items()} | {"test/a.txt": b""})


def arrays(rng: np.random.Generator) -> Iterator[tuple[str, Write]]:
  """Samples that neither the kernels of tokens nor the metrics of text can take."""
  tokens = rng.integers(0, 9, (20, 8))
  yield "absent", _nothing
  yield "empty", _bytes(b"")
  yield "truncated", _bytes(_cut(_npy(tokens), rng))
  yield "text", _bytes(b"1 2 3\n4 5 6\n")
  yield "npz", _bytes(_npz(a=tokens, b=tokens))
  yield "pickled", _bytes(_npy(np.array([tokens, None], dtype=object)))
  yield "number", _bytes(_npy(np.int64(3)))
  yield "no rows", _bytes(_npy(tokens[:0]))
  yield "words", _bytes(_npy(tokens.astype(str)))
  yield "complex", _bytes(_npy(tokens + 1j))
  yield "nan", _bytes(_npy(np.where(tokens == tokens[0, 0], np.nan, tokens)))
  yield "a folder", _folder({})


def draw(rng: np.random.Generator) -> Case:
  """A command that is given a wrong file, or a wrong number beside it."""
  kinds = ("text", "npz", "folder", "mmd", "metrics", "sample", "prompt", "no path")
  kind = kinds[rng.choice(8, p=(0.15, 0.22, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04))]
  if kind in ("sample", "prompt"):
    return {"sample": _sample, "prompt": _prompt}[kind](rng)
  if kind == "no path":
    name = ("npz", "folder")[rng.integers(2)]
    return Case(kind, (*_IMAGES, f"--config.dataset.name={name}"), ("dataset.path", "path is"))
  make = {"text": texts, "npz": archives, "folder": folders}.get(kind, arrays)
  found = list(make(rng))
  if kind == "mmd":
    found += [
      ("huge tokens", _bytes(_npy(rng.integers(0, 9, (20, 8)) + 10**12))),
      ("one row", _bytes(_npy(rng.integers(0, 9, (1, 8))))),
      ("other width", _bytes(_npy(rng.integers(0, 9, (20, 7))))),
    ]
  what, write = found[rng.integers(len(found))]
  args, module, mentions = {
    "text": (_TEXT, "dmmd_jax.main", ("given", "text", "alphabet")),
    "npz": (
      (*_IMAGES, "--config.dataset.name=npz", "--config.dataset.path={folder}/given"),
      "dmmd_jax.main",
      ("given",),
    ),
    "folder": (
      (*_IMAGES, "--config.dataset.name=folder", "--config.dataset.path={folder}/given"),
      "dmmd_jax.main",
      ("given",),
    ),
    "mmd": (
      ("{folder}/given", "{folder}/good.npy", "--permutations=10"),
      "dmmd_jax.mmd",
      ("given", "first", "second", "samples", "tokens"),
    ),
    "metrics": (("{folder}/given", "--reference={folder}/absent"), "dmmd_jax.metrics", ("given",)),
  }[kind]
  if kind == "mmd" and what != "huge tokens" and rng.random() < 0.5:
    args = (*args, "--kernel=hamming,ngram")
  if (kind == "folder" and what == "other size") or (kind, what) == ("npz", "channels first"):
    mentions = (*mentions, "shape")

  def write_all(folder):
    write(folder / "given")
    (folder / "good.npy").write_bytes(_npy(rng.integers(0, 9, (20, 8))))

  return Case(f"{kind}: {what}", args, mentions, module, write_all)


def _sample(rng: np.random.Generator) -> Case:
  """Numbers that are none, before anything is looked for in a workdir."""
  flags = [
    f"--{name}={value}"
    for name in ("temperature", "top_p")
    for value in ("nan", "inf", "-1", "0", "1e999", "many", "")
  ] + [f"--{name}={value}" for name in ("nfe", "num") for value in ("0", "-3", "1.5", "many")]
  flag = flags[rng.integers(len(flags))]
  name = flag[2:].partition("=")[0]
  args = ("--workdir={folder}", flag)
  return Case("sample: number", args, (name,), "dmmd_jax.sample", os.fspath)


def _prompt(rng: np.random.Generator) -> Case:
  """Letters that the alphabet does not have, and more than a text holds."""
  prompts = (
    "\u03bb\u03cc\u03b3\u03bf\u03c2",
    "red \u65e5\u672c\u8a9e",
    "\u043a\u043e\u0442",
    "cats " * 9,
  )
  prompt = prompts[rng.integers(len(prompts))]
  args = ("--workdir={text}", f"--prompt={prompt}", "--nfe=1")
  return Case("prompt", args, ("prompt", "alphabet"), "dmmd_jax.sample")
