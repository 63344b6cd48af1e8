"""Samples teacher and student at many NFE and measures both in the same way."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath

from dmmd_jax import parallel, records, report
from dmmd_jax.data.pipeline import random_rows
from dmmd_jax.digest import digest
from dmmd_jax.metrics.fid import make_fid
from dmmd_jax.metrics.frechet import distance
from dmmd_jax.metrics.ngram import KneserNey
from dmmd_jax.metrics.suites import Measures, make_measures
from dmmd_jax.phases import build, reference, teacher
from dmmd_jax.phases.models import Model, SampleBatches, draw_path, make_draw, make_models
from dmmd_jax.progress import progress_bar
from dmmd_jax.report import film
from dmmd_jax.report.samples import kept
from dmmd_jax.versions import made_by

# A table of trigrams is kept whole up to this many tokens.
SMALL_ALPHABET = 256
# Sequences that it counts, and those that likelihoods are measured on.
COUNTED, COMPARED = 200_000, 4096
# Of them that go through the network at once.
BATCH = 64


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: records.Sources
) -> dict[str, Any]:
  """Writes results, figures and samples into `<workdir>/evaluate/`.

  Samples come in batches of one size, so that metrics with a bias in the number of samples are
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
  bits, paths = {}, {}
  if not config.evaluate.brief:
    bits = likelihoods(config, models[0].params, dataset) if dataset.tokenizer else {}
    paths = film_paths(config, models, dataset, mesh)
  digests = {m.name: digest(m.params) if jax.tree.leaves(m.params) else "" for m in models}
  if jax.process_index() > 0:
    return {}
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
  for name in sources.keys() & digests.keys():
    results["inputs"][name]["digest"] = digests[name]
  out = workdir / "evaluate"
  out.mkdir(parents=True, exist_ok=True)
  most = max(len(tokens) for by_steps in samples.values() for tokens in by_steps.values())
  evaluation = report.Evaluation(
    title=workdir.name,
    results=results,
    samples=samples,
    digests=digests,
    real=kept(random_rows(dataset.held_out, most), dataset.num_categories),
    paths=paths,
    num_categories=dataset.num_categories,
    decode=dataset.tokenizer.decode if dataset.tokenizer else None,
  )
  return {"files": report.save(out, evaluation)}


def measure_real(config, dataset, measures: Measures) -> tuple[str, report.Reference]:
  """A split's name and metrics of batches of it: of validation if that has a batch, or of train.

  Without a batch of real data there are no metrics.
  """
  size = sample_batch_size(config, dataset)
  splits = {"validation": dataset.validation, "train": dataset.train}
  name = next((n for n, x in splits.items() if x is not None and len(x) >= size), "train")
  num_batches = min(len(splits[name]) // size, config.evaluate.num_sample_batches)
  if not num_batches:
    return name, {}
  batches = random_rows(splits[name], num_batches * size).reshape(num_batches, size, *dataset.shape)
  measured = [measures.of_batch(tokens, batch) for batch, tokens in enumerate(batches)]
  return name, {metric: value for metric, *value in batch_statistics(measured)}


def measure_models(
  config, models: list[Model], dataset, measures: Measures, mesh: jax.sharding.Mesh
) -> tuple[list[dict], list[dict], dict[str, dict[int, np.ndarray]]]:
  """Rows of the results, seconds per sample, and the samples to be saved of each model and steps.

  Rows depend on the config and the parameters alone; seconds do not repeat.
  """
  rows, seconds, samples = [], [], {}
  shape = (sample_batch_size(config, dataset), *dataset.shape)
  progress = progress_bar(sum(sum(m.steps) for m in models), 0, "evaluate", "steps")
  for model in models:
    samples[model.name] = {}
    draw = make_draw(config, model, shape, mesh)
    for steps in model.steps:
      batches = draw(steps)
      rows += result_rows(model, steps, batches, measures)
      seconds.append(
        _cell(model, steps) | {"seconds_per_sample": batches.seconds.mean() / shape[0]}
      )
      tokens = batches.tokens.reshape(-1, *dataset.shape)
      samples[model.name][steps] = kept(tokens, dataset.num_categories)
      progress.update(steps)
  progress.close()
  return rows, seconds, samples


def film_paths(
  config, models: list[Model], dataset, mesh: jax.sharding.Mesh
) -> dict[str, np.ndarray]:
  """What the film shows, by the titles that it has there."""
  kinds = {1: film.TEXTS if dataset.tokenizer else film.SEQUENCES, 3: film.IMAGES}
  shape = (kinds[len(dataset.shape)], *dataset.shape)
  return {
    f"{model.name}, {model.nfe(model.filmed)} NFE": draw_path(config, model, shape, mesh)
    for model in models
    if model.filmed
  }


def sample_batch_size(config, dataset) -> int:
  return config.evaluate.sample_batch_size or len(dataset.held_out)


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
    held_out_prompts=dataset.validation_prompts,
    validation=None,
    validation_labels=None,
    validation_prompts=None,
  )


def likelihoods(config, teacher_params, dataset) -> dict[str, tuple[float, float]]:
  """Bits per token of the held-out split: the teacher's bound, and a trigram model to beat."""
  denoiser = build.make_denoiser(config, dataset)
  found, held_out = {}, random_rows(dataset.held_out, COMPARED)
  if config.teacher.loss == "bound" or config.process.name == "masked":
    prompts = dataset.held_out_prompts
    prompts = None if prompts is None else random_rows(prompts, COMPARED)
    seed = config.run.seed + 3
    nats = teacher.negative_elbo(denoiser, teacher_params, held_out, seed, BATCH, prompts=prompts)
    found["Teacher (upper bound)"] = _mean_in_bits(nats)
  if dataset.num_categories <= SMALL_ALPHABET:
    # Texts begin at every token, chats do not.
    rows = dataset.train[:: 1 if dataset.train_prompts is not None else dataset.shape[0]]
    # The whole stream has more trigrams than its pieces.
    counted = rows.reshape(-1) if len(rows) <= COUNTED else random_rows(rows, COUNTED)
    trigram = KneserNey(counted, dataset.num_categories)
    found["Trigram model, Kneser-Ney"] = _mean_in_bits(trigram.token_nll(held_out).mean(-1))
  return found


def _mean_in_bits(nats: np.ndarray) -> tuple[float, float]:
  bits = np.asarray(nats) / np.log(2.0)
  return float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits)))


def result_rows(
  model: Model, steps: int, batches: SampleBatches, measures: Measures
) -> Iterator[dict]:
  """One row per metric: mean and standard error over the batches, or one value of them all."""
  num_batches, size, *shape = batches.tokens.shape
  measured = [
    measures.of_batch(tokens, batch) | {"entropy": entropy}
    for batch, (tokens, entropy) in enumerate(zip(batches.tokens, batches.entropy, strict=True))
  ]
  if batches.spent is not None:
    measured = [
      m | {"nfe_spent": model.nfe(x)} for m, x in zip(measured, batches.spent, strict=True)
    ]
  of_all = measures.of_all(batches.tokens.reshape(-1, *shape))
  rows = [(metric, value, None) for metric, value in of_all.items()]
  for metric, value, stderr in [*rows, *batch_statistics(measured)]:
    yield _cell(model, steps) | {
      "metric": metric,
      "value": value,
      "stderr": stderr,
      "num_samples": num_batches * size,
    }


def _cell(model: Model, steps: int) -> dict:
  return {"model": model.name, "steps": steps, "nfe": model.nfe(steps)}


def batch_statistics(measured) -> Iterator[tuple[str, float, float | None]]:
  """Name, mean and standard error (None for one batch) of each metric in a list of dicts.

  A metric that a batch could not give, such as the likelihood of an impossible sample, is left out.
  """
  measured = list(measured)
  for metric in measured[0] if measured else ():
    if not all(metric in m for m in measured):
      continue
    values = np.array([m[metric] for m in measured])
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    yield metric, float(values.mean()), None if stderr is None else float(stderr)
