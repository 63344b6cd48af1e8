"""Samples teacher and student at many NFE and measures both in the same way."""

import functools
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from dmmd_jax import parallel, report
from dmmd_jax.diffusion.samplers import ancestral_sample
from dmmd_jax.metrics.suites import make_measure
from dmmd_jax.phases import build
from dmmd_jax.progress import progress_bar


class Model(NamedTuple):
  """A row of the results: `predict(params, z, t, key)` gives `log E[x | z_t]`."""

  name: str
  predict: object
  params: object
  nfes: tuple[int, ...]
  temperature: float
  top_p: float


class Blocks(NamedTuple):
  """What one model drew at one NFE: tokens `[blocks, n, ...]`, entropies `[blocks]`, seconds."""

  tokens: np.ndarray
  entropy: np.ndarray
  seconds: np.ndarray


def run(config, workdir: pathlib.Path, mesh: jax.sharding.Mesh) -> None:
  """Writes results, figures and sample grids into `<workdir>/evaluate/` and prints the table.

  Samples come in blocks of the size of the held-out split, so that metrics with a bias in the
  number of samples are comparable with `reference`: the training data measured in the same way.
  """
  dataset = build.make_dataset(config)
  models = make_models(config, workdir, dataset, mesh)
  measure = make_measure(dataset)
  out = workdir / "evaluate"
  out.mkdir(parents=True, exist_ok=True)
  rows = []
  progress = progress_bar(sum(sum(m.nfes) for m in models), 0, "evaluate", "NFE")
  for model in models:
    grids = {}
    for nfe in model.nfes:
      blocks = draw(config, model, dataset, nfe, mesh)
      rows += list(result_rows(model.name, nfe, blocks, measure))
      grids[nfe] = blocks.tokens[0]
      progress.update(nfe)
    report.save_samples(out, model.name, grids, dataset.num_categories)
  progress.close()
  size = len(dataset.held_out)
  train_blocks = dataset.train[: len(dataset.train) // size * size].reshape(
    -1, size, *dataset.shape
  )
  reference = {name: float(mean) for name, mean, _ in block_statistics(map(measure, train_blocks))}
  report.save_results(out, rows, reference)
  print((out / "results.md").read_text())


def make_models(config, workdir: pathlib.Path, dataset, mesh) -> list[Model]:
  """The teacher, and the student where this workdir has one."""
  c = config.evaluate
  denoiser = build.make_denoiser(config, dataset)
  teacher_dir = pathlib.Path(config.distill.teacher_workdir or workdir) / "teacher"
  if config.distill.teacher == "exact":
    predict, params = build.exact_teacher(dataset, denoiser.process), ()
  else:
    predict, params = denoiser.log_mean, build.load_ema(teacher_dir, denoiser, mesh)
  models = [
    Model("teacher", predict, params, c.teacher_nfe, c.teacher_temperature, c.teacher_top_p)
  ]
  if (workdir / "distill").exists():
    student = build.make_denoiser(config, dataset, student=True)
    params = build.load_ema(workdir / "distill", student, mesh)
    models.append(Model("student", student.log_mean, params, c.student_nfe, 1.0, 1.0))
  return models


def draw(config, model: Model, dataset, nfe: int, mesh: jax.sharding.Mesh) -> Blocks:
  """Draws `config.evaluate.num_blocks` blocks as large as the held-out split, padded to devices."""
  size = len(dataset.held_out)
  padded = -(-size // mesh.size) * mesh.size
  process = build.make_process(config, dataset)

  @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
  def sample(params, key):
    def predict(z, t, key):
      z = jax.lax.with_sharding_constraint(z, parallel.batch_sharding(mesh))
      return model.predict(params, z, t, key)

    shape = (padded, *dataset.shape)
    return ancestral_sample(predict, process, key, shape, nfe, model.temperature, model.top_p)

  nfe_key = jax.random.fold_in(jax.random.key(config.run.seed + 2), nfe)
  sample = sample.lower(model.params, nfe_key).compile()
  tokens, entropies, seconds = [], [], []
  for block in range(config.evaluate.num_blocks):
    start = time.perf_counter()
    drawn = jax.block_until_ready(sample(model.params, jax.random.fold_in(nfe_key, block)))
    seconds.append(time.perf_counter() - start)
    tokens.append(np.asarray(drawn.tokens[:size]))
    entropies.append(float(drawn.entropy))
  return Blocks(np.stack(tokens), np.array(entropies), np.array(seconds))


def result_rows(name: str, nfe: int, blocks: Blocks, measure) -> Iterator[dict]:
  """One row per metric with mean and standard error over the blocks."""
  num_blocks, size = blocks.tokens.shape[:2]
  measured = [
    measure(tokens) | {"entropy": entropy}
    for tokens, entropy in zip(blocks.tokens, blocks.entropy, strict=True)
  ]
  for metric, value, stderr in block_statistics(measured):
    yield {
      "model": name,
      "nfe": nfe,
      "metric": metric,
      "value": value,
      "stderr": stderr,
      "num_samples": num_blocks * size,
      "seconds_per_sample": float(blocks.seconds.mean() / size),
    }


def block_statistics(measured) -> Iterator[tuple[str, float, float | None]]:
  """Name, mean and standard error (None for one block) of each metric in a list of dicts.

  A metric that a block could not give, such as the likelihood of an impossible sample, is left out.
  """
  measured = list(measured)
  for metric in measured[0]:
    if not all(metric in m for m in measured):
      continue
    values = np.array([m[metric] for m in measured])
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    yield metric, float(values.mean()), None if stderr is None else float(stderr)
