"""Samples teacher and student at many NFE and measures both in the same way."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from dmmd_jax import integrity, parallel, records, report
from dmmd_jax.data.pipeline import random_rows
from dmmd_jax.diffusion.samplers import Samples
from dmmd_jax.digest import digest
from dmmd_jax.metrics.fid import make_fid
from dmmd_jax.metrics.frechet import distance
from dmmd_jax.metrics.ngram import KneserNey
from dmmd_jax.metrics.suites import Measures, make_measures
from dmmd_jax.phases import build, reference, teacher
from dmmd_jax.progress import progress_bar
from dmmd_jax.versions import made_by

# A table of trigrams is kept whole up to this many tokens.
SMALL_ALPHABET = 256
# Sequences that it counts, and those that likelihoods are measured on.
COUNTED, COMPARED = 200_000, 4096
# Of them that go through the network at once.
BATCH = 64


class Model(NamedTuple):
  """Rows of the results: `sample(params, key, shape, steps)` draws tokens of `shape`.

  That takes `nfe(steps)` evaluations of the network.
  """

  name: str
  sample: Callable[..., Samples]
  params: Any
  steps: tuple[int, ...]
  nfe: Callable[[int], int] = lambda steps: steps


class Blocks(NamedTuple):
  """What a model drew in some steps: tokens `[blocks, n, ...]`, entropies `[blocks]`, seconds."""

  tokens: np.ndarray
  entropy: np.ndarray
  seconds: np.ndarray


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: records.Sources
) -> dict[str, Any]:
  """Writes results, figures and samples into `<workdir>/evaluate/`.

  Samples come in blocks of one size, so that metrics with a bias in the number of samples are
  comparable with `reference`: real data that no metric compares with, measured in the same way.
  """
  dataset = with_split(dataset, config.evaluate.split)
  language_model = None
  if dataset.tokenizer:
    language_model = reference.load(sources["reference"], dataset, mesh)
  models = make_models(config, sources, dataset, language_model, mesh)
  measures = make_measures(dataset, language_model, load_fid(config, dataset, mesh))
  real_split, real = measure_real(config, dataset, measures)
  rows, seconds, samples = measure_models(config, models, dataset, measures, mesh)
  bits = likelihoods(config, models[0].params, dataset) if dataset.tokenizer else {}
  digests = {model.name: digest(model.params) for model in models if model.name in sources}
  if jax.process_index() > 0:
    return {}
  out = workdir / "evaluate"
  out.mkdir(parents=True, exist_ok=True)
  if dataset.tokenizer:
    files = report.save_texts(out, samples, dataset.tokenizer.decode)
  else:
    files = report.save_images(out, samples, dataset.num_categories)
  results = {
    "split": config.evaluate.split,
    "rows": rows,
    "reference": real,
    "reference_split": real_split,
    "bits_per_token": bits,
    "seconds": seconds,
    **records.depends(config, "evaluate", sources),
    "made_by": made_by(parallel.describe(mesh)),
  }
  for name, found in digests.items():
    results["inputs"][name]["digest"] = found
  files += report.save_results(out, results)
  return {"files": integrity.by_contents(out, files)}


def measure_real(config, dataset, measures: Measures) -> tuple[str, report.Reference]:
  """A split's name and metrics of blocks of it: the validation split if that has a block, or train.

  Without a block of real data there are no metrics.
  """
  size = block_size(config, dataset)
  splits = {"validation": dataset.validation, "train": dataset.train}
  name = next((n for n, x in splits.items() if x is not None and len(x) >= size), "train")
  num_blocks = min(len(splits[name]) // size, config.evaluate.num_blocks)
  if not num_blocks:
    return name, {}
  blocks = random_rows(splits[name], num_blocks * size).reshape(num_blocks, size, *dataset.shape)
  measured = [measures.of_block(tokens, block) for block, tokens in enumerate(blocks)]
  return name, {metric: value for metric, *value in block_statistics(measured)}


def measure_models(
  config, models: list[Model], dataset, measures: Measures, mesh: jax.sharding.Mesh
) -> tuple[list[dict], list[dict], dict[str, dict[int, np.ndarray]]]:
  """Rows of the results, seconds per sample, and a block of samples of each model and steps.

  Rows depend on the config and the parameters alone; seconds do not repeat.
  """
  rows, seconds, samples = [], [], {}
  shape = (block_size(config, dataset), *dataset.shape)
  progress = progress_bar(sum(sum(m.steps) for m in models), 0, "evaluate", "steps")
  for model in models:
    samples[model.name] = {}
    for steps in model.steps:
      blocks = draw(config, model, shape, steps, mesh)
      rows += result_rows(model, steps, blocks, measures)
      seconds.append(_cell(model, steps) | {"seconds_per_sample": blocks.seconds.mean() / shape[0]})
      samples[model.name][steps] = blocks.tokens[0]
      progress.update(steps)
  progress.close()
  return rows, seconds, samples


def block_size(config, dataset) -> int:
  return config.evaluate.block_size or len(dataset.held_out)


def load_fid(config, dataset, mesh: jax.sharding.Mesh) -> Callable[[np.ndarray], float] | None:
  """`fid(images)` against the training split, where the weights of `evaluate.inception` are."""
  weights = pathlib.Path(config.evaluate.get("inception", "")).expanduser()
  if weights.name and not weights.is_file():
    print(
      f"no FID, for there is no {weights} (to be had from the release fid_weights of"
      " github.com/mseitzer/pytorch-fid): Fréchet distances are in the features of a classifier"
    )
  if not weights.is_file():
    return None
  fid = make_fid(str(weights), parallel.batch_sharding(mesh))
  real = fid.reference_moments(dataset.train, config.dataset.name)
  return lambda images: distance(fid.moments(images), real)


def with_split(dataset, split: str):
  """The data set to measure with: to choose settings, its validation split is the one held out.

  The test split is then nowhere in it.
  """
  if split == "held_out":
    return dataset
  return dataclasses.replace(
    dataset,
    held_out=dataset.validation,
    held_out_labels=dataset.validation_labels,
    validation=None,
    validation_labels=None,
  )


def make_models(
  config, sources: records.Sources, dataset, language_model, mesh: jax.sharding.Mesh
) -> list[Model]:
  """The teacher, the student where there is one, and for text an autoregressive model."""
  c = config.evaluate
  denoiser = build.make_denoiser(config, dataset)
  guided = denoiser.guided(c.teacher_guidance)
  if config.distill.teacher == "exact":
    predict, params = build.exact_teacher(dataset, denoiser.process), ()
  else:
    predict, params = None, build.load_ema(sources["teacher"], denoiser.init, mesh)
  sample = build.make_sampler(guided, mesh, predict, c.teacher_temperature, c.teacher_top_p)
  models = [Model("teacher", sample, params, c.teacher_nfe, guided.evaluations)]
  if "student" in sources:
    student = build.make_denoiser(config, dataset, student=True)
    params = build.load_ema(sources["student"], student.init, mesh)
    sample = build.make_sampler(student, mesh)
    models.append(Model("student", sample, params, c.student_nfe, student.evaluations))
  if language_model and language_model.sample:
    length = dataset.shape[0]
    sample = lambda params, key, shape, steps: language_model.sample(params, key, shape)
    models.append(Model("autoregressive", sample, language_model.params, (length,)))
  return models


def likelihoods(config, teacher_params, dataset) -> dict[str, tuple[float, float]]:
  """Bits per token of the held-out split: the teacher's bound, and a trigram model to beat."""
  denoiser = build.make_denoiser(config, dataset)
  found, held_out = {}, random_rows(dataset.held_out, COMPARED)
  if config.teacher.loss == "bound" or denoiser.process.num_states > dataset.num_categories:
    nats = teacher.negative_elbo(denoiser, teacher_params, held_out, config.run.seed + 3, BATCH)
    found["Teacher (upper bound)"] = _mean_in_bits(nats)
  if dataset.num_categories <= SMALL_ALPHABET:
    rows = dataset.train[:: dataset.shape[0]]
    # The whole stream has more trigrams than its pieces.
    counted = rows.reshape(-1) if len(rows) <= COUNTED else random_rows(rows, COUNTED)
    trigram = KneserNey(counted, dataset.num_categories)
    found["Trigram model, Kneser-Ney"] = _mean_in_bits(trigram.token_nll(held_out).mean(-1))
  return found


def _mean_in_bits(nats: np.ndarray) -> tuple[float, float]:
  bits = np.asarray(nats) / np.log(2.0)
  return float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits)))


def draw(
  config, model: Model, shape: tuple[int, ...], steps: int, mesh: jax.sharding.Mesh
) -> Blocks:
  """Draws `config.evaluate.num_blocks` blocks of `shape`, padded to the number of devices."""
  padded = (-(-shape[0] // mesh.size) * mesh.size, *shape[1:])

  @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
  def sample(params, key):
    return model.sample(params, key, padded, steps)

  steps_key = jax.random.fold_in(jax.random.key(config.run.seed + 2), steps)
  with parallel.use(mesh):
    sample = sample.lower(model.params, steps_key).compile()
  tokens, entropies, seconds = [], [], []
  for block in range(config.evaluate.num_blocks):
    start = time.perf_counter()
    drawn = jax.block_until_ready(sample(model.params, jax.random.fold_in(steps_key, block)))
    seconds.append(time.perf_counter() - start)
    tokens.append(np.asarray(drawn.tokens[: shape[0]]))
    entropies.append(float(drawn.entropy))
  return Blocks(np.stack(tokens), np.array(entropies), np.array(seconds))


def result_rows(model: Model, steps: int, blocks: Blocks, measures: Measures) -> Iterator[dict]:
  """One row per metric: mean and standard error over the blocks, or one value of them all."""
  num_blocks, size, *shape = blocks.tokens.shape
  measured = [
    measures.of_block(tokens, block) | {"entropy": entropy}
    for block, (tokens, entropy) in enumerate(zip(blocks.tokens, blocks.entropy, strict=True))
  ]
  of_all = measures.of_all(blocks.tokens.reshape(-1, *shape))
  rows = [(metric, value, None) for metric, value in of_all.items()]
  for metric, value, stderr in [*rows, *block_statistics(measured)]:
    yield _cell(model, steps) | {
      "metric": metric,
      "value": value,
      "stderr": stderr,
      "num_samples": num_blocks * size,
    }


def _cell(model: Model, steps: int) -> dict:
  return {"model": model.name, "steps": steps, "nfe": model.nfe(steps)}


def block_statistics(measured) -> Iterator[tuple[str, float, float | None]]:
  """Name, mean and standard error (None for one block) of each metric in a list of dicts.

  A metric that a block could not give, such as the likelihood of an impossible sample, is left out.
  """
  measured = list(measured)
  for metric in measured[0] if measured else ():
    if not all(metric in m for m in measured):
      continue
    values = np.array([m[metric] for m in measured])
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    yield metric, float(values.mean()), None if stderr is None else float(stderr)
