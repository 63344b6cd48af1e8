"""Where configs are: any file, the folder `configs` here, and those of the package. Pure Python."""

import contextlib
import importlib
import importlib.machinery
import importlib.util
import pathlib
import sys
import types
from collections.abc import Iterator

_NAME = "configs"


def shipped() -> pathlib.Path:
  """The folder of the package's configs: in it where it is installed, beside it in a checkout."""
  package = pathlib.Path(__file__).parent
  inside = package / _NAME
  return inside if inside.is_dir() else package.parent / _NAME


def find(name: str) -> pathlib.Path | None:
  """The file that `name` means, with or without `.py`; None where there is none.

  A path is one from the current folder. A bare name may also be that of a file in `configs` of the
  current folder, or of the package.
  """
  folders = [""] if "/" in name else ["", f"{_NAME}/", f"{shipped()}/"]
  files = (pathlib.Path(f"{folder}{name}{end}") for folder in folders for end in ("", ".py"))
  return next((file for file in files if file.is_file()), None)


def names() -> dict[str, pathlib.Path]:
  """The configs that may be named by a bare name, in order."""
  files = [*pathlib.Path(_NAME).glob("*.py"), *shipped().glob("*.py")]
  found = {}
  for file in files:
    found.setdefault(file.stem, file)
  return {name: found[name] for name in sorted(found) if not name.startswith("_")}


class _Source(importlib.machinery.SourceFileLoader):
  """Runs a config as it is now: bytecode beside it may be that of a moment before."""

  def get_code(self, fullname: str) -> types.CodeType:
    path = self.get_filename(fullname)
    return self.source_to_code(self.get_data(path), path)


@contextlib.contextmanager
def importable(file: pathlib.Path) -> Iterator[None]:
  """Within it `from configs import x` works for a config in `file`, whatever the current folder.

  `x` is looked for beside `file` if that is in a folder `configs`, then in `configs` of the current
  folder, then in that of the package.
  """
  own = file.absolute().parent
  folders = [own] if own.name == _NAME else []
  folders += [pathlib.Path(_NAME).absolute(), shipped()]
  spec = importlib.machinery.ModuleSpec(_NAME, None, is_package=True)
  spec.submodule_search_locations = list(dict.fromkeys(map(str, folders)))
  before = _modules()
  for name in before:
    del sys.modules[name]
  sys.modules[_NAME] = importlib.util.module_from_spec(spec)
  try:
    with _from_source(folders):
      yield
  finally:
    for name in _modules():
      del sys.modules[name]
    sys.modules.update(before)


@contextlib.contextmanager
def _from_source(folders: list[pathlib.Path]) -> Iterator[None]:
  """Within it modules in these folders, and in theirs, are `_Source`."""

  def is_inside(path: str) -> bool:
    return any(pathlib.Path(path).is_relative_to(folder) for folder in folders)

  def hook(path: str) -> importlib.machinery.FileFinder:
    if not is_inside(path):
      raise ImportError(path)
    return importlib.machinery.FileFinder(path, (_Source, [".py"]))

  def forget() -> None:
    for path in filter(is_inside, list(sys.path_importer_cache)):
      del sys.path_importer_cache[path]

  forget()
  sys.path_hooks.insert(0, hook)
  try:
    yield
  finally:
    sys.path_hooks.remove(hook)
    forget()


def _modules() -> dict[str, object]:
  return {x: m for x, m in sys.modules.items() if x == _NAME or x.startswith(f"{_NAME}.")}
