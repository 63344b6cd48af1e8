"""Progress bars: smooth on a terminal, a line now and then in a log file."""

import sys

import jax
from tqdm import tqdm


def progress_bar(total: int, initial: int, name: str, unit: str, delay: float = 0.0) -> tqdm:
  """A bar with rate and time left, on standard error; of several processes, of the first.

  What takes less than `delay` seconds shows none.
  """
  on_terminal = sys.stderr.isatty()
  return tqdm(
    total=total,
    initial=initial,
    desc=name,
    unit=unit,
    delay=delay,
    dynamic_ncols=on_terminal,
    mininterval=0.1 if on_terminal else 20.0,
    maxinterval=1.0 if on_terminal else 60.0,
    file=sys.stderr,
    disable=jax.process_index() > 0,
  )
