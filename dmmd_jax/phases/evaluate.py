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

from dmmd_jax import parallel, records, report
from dmmd_jax.diffusion.samplers import Samples
from dmmd_jax.metrics.fid import make_fid
from dmmd_jax.metrics.frechet import distance
from dmmd_jax.metrics.ngram import KneserNey
from dmmd_jax.metrics.suites import Measures, make_measures
from dmmd_jax.phases import build, reference, teacher
from dmmd_jax.progress import progress_bar

# A table of trigrams is kept whole up to this many tokens.
SMALL_ALPHABET = 256
# Sequences that it counts, and those that likelihoods are measured on.
COUNTED, COMPARED = 200_000, 4096
# Of them that go through the network at once.
BATCH = 64


class Model(NamedTuple):
  """A row of the results: `sample(params, key, shape, nfe)` draws tokens of `shape`."""

  name: str
  sample: Callable[..., Samples]
  params: Any
  nfes: tuple[int, ...]


class Blocks(NamedTuple):
  """What one model drew at one NFE: tokens `[blocks, n, ...]`, entropies `[blocks]`, seconds."""

  tokens: np.ndarray
  entropy: np.ndarray
  seconds: np.ndarray


def run(
  config, dataset, workdir: epath.Path, mesh: jax.sharding.Mesh, sources: records.Sources
) -> dict[str, Any]:
  """Writes results, figures and samples into `<workdir>/evaluate/` and prints the table.

  Samples come in blocks of one size, so that metrics with a bias in the number of samples are
  comparable with `reference`: real data that no metric compares with, measured in the same way.
  """
  c = config.evaluate
  dataset = with_split(dataset, c.split)
  size = c.block_size or len(dataset.held_out)
  language_model = None
  if dataset.tokenizer:
    language_model = reference.load(sources["reference"], dataset, mesh)
  models = make_models(config, sources, dataset, language_model, mesh)
  measures = make_measures(dataset, language_model, load_fid(config, dataset, mesh))
  real = dataset.train if dataset.validation is None else dataset.validation
  real = real[: min(len(real) // size, c.num_blocks) * size].reshape(-1, size, *dataset.shape)
  measured = [measures.of_block(tokens, block) for block, tokens in enumerate(real)]
  real_values = {name: value for name, *value in block_statistics(measured)}
  rows, samples = [], {}
  progress = progress_bar(sum(sum(m.nfes) for m in models), 0, "evaluate", "NFE")
  for model in models:
    samples[model.name] = {}
    for nfe in model.nfes:
      blocks = draw(config, model, (size, *dataset.shape), nfe, mesh)
      rows += list(result_rows(model.name, nfe, blocks, measures))
      samples[model.name][nfe] = blocks.tokens[0]
      progress.update(nfe)
  progress.close()
  bits = likelihoods(config, models[0].params, dataset) if dataset.tokenizer else {}
  if jax.process_index() > 0:
    return {}
  out = workdir / "evaluate"
  out.mkdir(parents=True, exist_ok=True)
  if dataset.tokenizer:
    report.save_texts(out, samples, dataset.tokenizer.decode)
  else:
    report.save_images(out, samples, dataset.num_categories)
  provenance = records.depends(config, "evaluate", sources) | {
    "made_by": records.versions() | {"device": parallel.describe(mesh)}
  }
  report.save_results(out, rows, real_values, bits, provenance)
  print((out / "results.md").read_text())
  return {"sha256": records.sha256(out / "results.json")}


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
  """The data set, its held-out and validation splits exchanged where settings are to be chosen."""
  if split == "held_out":
    return dataset
  return dataclasses.replace(dataset, held_out=dataset.validation, validation=dataset.held_out)


def make_models(
  config, sources: records.Sources, dataset, language_model, mesh: jax.sharding.Mesh
) -> list[Model]:
  """The teacher, the student where there is one, and for text an autoregressive model."""
  c = config.evaluate
  denoiser = build.make_denoiser(config, dataset)
  if config.distill.teacher == "exact":
    predict, params = build.exact_teacher(dataset, denoiser.process), ()
  else:
    predict, params = None, build.load_ema(sources["teacher"], denoiser.init, mesh)
  sample = build.make_sampler(
    denoiser.guided(c.teacher_guidance), mesh, predict, c.teacher_temperature, c.teacher_top_p
  )
  models = [Model("teacher", sample, params, c.teacher_nfe)]
  if "student" in sources:
    student = build.make_denoiser(config, dataset, student=True)
    params = build.load_ema(sources["student"], student.init, mesh)
    models.append(Model("student", build.make_sampler(student, mesh), params, c.student_nfe))
  if language_model and language_model.sample:
    length = dataset.shape[0]
    sample = lambda params, key, shape, nfe: language_model.sample(params, key, shape)
    models.append(Model("autoregressive", sample, language_model.params, (length,)))
  return models


def likelihoods(config, teacher_params, dataset) -> dict[str, tuple[float, float]]:
  """Bits per token of the held-out split: the teacher's bound, and a trigram model to beat."""
  denoiser = build.make_denoiser(config, dataset)
  found, held_out = {}, dataset.held_out[:COMPARED]
  if config.teacher.loss == "bound" or denoiser.process.num_states > dataset.num_categories:
    size = min(BATCH, len(held_out))
    nats = teacher.negative_elbo(denoiser, teacher_params, held_out, config.run.seed + 3, size)
    found["Teacher (upper bound)"] = _mean_in_bits(nats)
  if dataset.num_categories <= SMALL_ALPHABET:
    stream = dataset.train[:: dataset.shape[0]][:COUNTED].reshape(-1)
    trigram = KneserNey(stream, dataset.num_categories)
    found["Trigram model, Kneser-Ney"] = _mean_in_bits(trigram.token_nll(held_out).mean(-1))
  return found


def _mean_in_bits(nats: np.ndarray) -> tuple[float, float]:
  bits = np.asarray(nats) / np.log(2.0)
  return float(bits.mean()), float(bits.std(ddof=1) / np.sqrt(len(bits)))


def draw(config, model: Model, shape: tuple[int, ...], nfe: int, mesh: jax.sharding.Mesh) -> Blocks:
  """Draws `config.evaluate.num_blocks` blocks of `shape`, padded to the number of devices."""
  padded = (-(-shape[0] // mesh.size) * mesh.size, *shape[1:])

  @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
  def sample(params, key):
    return model.sample(params, key, padded, nfe)

  nfe_key = jax.random.fold_in(jax.random.key(config.run.seed + 2), nfe)
  with parallel.use(mesh):
    sample = sample.lower(model.params, nfe_key).compile()
  tokens, entropies, seconds = [], [], []
  for block in range(config.evaluate.num_blocks):
    start = time.perf_counter()
    drawn = jax.block_until_ready(sample(model.params, jax.random.fold_in(nfe_key, block)))
    seconds.append(time.perf_counter() - start)
    tokens.append(np.asarray(drawn.tokens[: shape[0]]))
    entropies.append(float(drawn.entropy))
  return Blocks(np.stack(tokens), np.array(entropies), np.array(seconds))


def result_rows(name: str, nfe: int, blocks: Blocks, measures: Measures) -> Iterator[dict]:
  """One row per metric: mean and standard error over the blocks, or one value of them all."""
  num_blocks, size, *shape = blocks.tokens.shape
  measured = [
    measures.of_block(tokens, block) | {"entropy": entropy}
    for block, (tokens, entropy) in enumerate(zip(blocks.tokens, blocks.entropy, strict=True))
  ]
  of_all = measures.of_all(blocks.tokens.reshape(-1, *shape))
  rows = [(metric, value, None) for metric, value in of_all.items()]
  for metric, value, stderr in [*rows, *block_statistics(measured)]:
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
  for metric in measured[0] if measured else ():
    if not all(metric in m for m in measured):
      continue
    values = np.array([m[metric] for m in measured])
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else None
    yield metric, float(values.mean()), None if stderr is None else float(stderr)
