"""Runs the cells of a notebook in a process of their own, as Jupyter does.

`python -m tests.run_cells FOLDER NAME …` reads FOLDER/cells.json, a list of sources, and pickles
the variables of these names to FOLDER/wanted.pickle.
"""

import json
import pathlib
import pickle
import sys


def main(folder: str, *wanted: str) -> None:
  defined = {}
  for cell in json.loads(pathlib.Path(folder, "cells.json").read_text(encoding="utf-8")):
    exec(cell, defined)
  with pathlib.Path(folder, "wanted.pickle").open("wb") as file:
    pickle.dump([defined[name] for name in wanted], file)


if __name__ == "__main__":
  main(*sys.argv[1:])
