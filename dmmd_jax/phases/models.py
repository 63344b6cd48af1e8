"""The models of an evaluation, and what they draw."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from dmmd_jax import parallel, records
from dmmd_jax.config_network import check_guidance_by_labels
from dmmd_jax.config_settings import require_common_sampler
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion.samplers import Samples, Sampling, ancestral_sample
from dmmd_jax.phases import build, distill

# States of a film at most, without the first; they bound its size.
_MOMENTS = 64


class Model(NamedTuple):
  """Rows of the results: `sample(params, key, shape, steps)` draws tokens of `shape`.

  That takes `nfe(steps)` evaluations of the network, at most if its sampler is adaptive. `filmed`
  are the steps of its film, None for a model whose `sample` has no argument `with_path`.
  """

  name: str
  sample: Callable[..., Samples]
  params: Any
  steps: tuple[int, ...]
  nfe: Callable[[float], float] = lambda steps: steps
  filmed: int | None = None


class SampleBatches(NamedTuple):
  """What a model drew in some steps: tokens `[batches, n, ...]`, entropies `[batches]`, seconds.

  `spent` `[batches]` are the steps that an example took, on average, of an adaptive sampler.
  """

  tokens: np.ndarray
  entropy: np.ndarray
  seconds: np.ndarray
  spent: np.ndarray | None = None


def make_models(
  config, sources: records.Sources, dataset, language_model, mesh: jax.sharding.Mesh
) -> list[Model]:
  """The teacher, the student where there is one, and for text an autoregressive model.

  The last not where `evaluate.brief` is set.
  """
  c = config.evaluate
  denoiser = build.make_denoiser(config, dataset)
  guided = denoiser.guided(c.teacher_guidance)
  if c.teacher_guidance:
    check_guidance_by_labels(sources["teacher"].config)
  if config.distill.teacher == "exact":
    predict, params = build.ExactTeacher(dataset.joint, denoiser.process).log_mean, ()
  else:
    predict, params = None, build.load_ema(sources["teacher"], denoiser.init, mesh)
  draw = build.make_sampling(c, c.sampler)
  sample = build.make_sampler(guided, mesh, predict, c.teacher_temperature, c.teacher_top_p, draw)
  most = max(c.teacher_nfe)
  model = Model("teacher", sample, params, c.teacher_nfe, guided.evaluations, most)
  models = [_answering(model, dataset)]
  if "student" in sources:
    student = build.make_denoiser(config, dataset, student=True)
    params = build.load_student(sources["student"], student, denoiser, mesh)
    made_by = sources["student"].config
    chosen = c.student_sampler, c.grid, c.last_step
    require_common_sampler(made_by.distill.method, *chosen)
    sampling = build.make_sampling(c, c.student_sampler)
    draw, num_steps = student_draw(made_by, dataset, sampling)
    sample = build.make_sampler(student, mesh, draw=draw)
    steps = tuple(dict.fromkeys(map(num_steps, c.student_nfe)))
    own_steps = num_steps(made_by.distill.student_nfe)
    model = Model("student", sample, params, steps, student.evaluations, own_steps)
    models.append(_answering(model, dataset))
  if language_model and language_model.sample and not c.brief:
    length = dataset.shape[0]
    sample = lambda params, key, shape, steps: language_model.sample(params, key, shape)
    models.append(Model("autoregressive", sample, language_model.params, (length,)))
  return models


def _answering(model: Model, dataset) -> Model:
  """Itself, for answers to the first of the held-out prompts where there are prompts."""
  if dataset.held_out_prompts is None:
    return model

  def sample(params, key, shape, steps, **kwargs):
    rows = np.arange(shape[0]) % len(dataset.held_out)
    batch = Batch(dataset.held_out[rows], None, dataset.held_out_prompts[rows])
    return model.sample(params, key, shape, steps, batch=batch, **kwargs)

  return model._replace(sample=sample)


def student_draw(
  config, dataset, sampling: Sampling = ancestral_sample
) -> tuple[Callable[..., Samples], Callable[[int], int]]:
  """How a student draws, and in how many steps where it is asked for some.

  As any model, by `sampling`, and in as many, unless the method that made it has a way of its own.
  """
  method = distill.make_method(config, dataset)
  num_steps = getattr(method, "num_steps", lambda steps: steps)
  return getattr(method, "sample", sampling), num_steps


def make_draw(
  config, model: Model, shape: tuple[int, ...], mesh: jax.sharding.Mesh
) -> Callable[[int], SampleBatches]:
  """`draw(steps)` of `evaluate.num_sample_batches` batches of `shape`, by one compiled program.

  Batches are padded to the number of devices.
  """
  padded = _padded(shape, mesh)

  @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
  def sample(params, key, steps):
    return model.sample(params, key, padded, steps)

  with parallel.use(mesh):
    compiled = sample.lower(model.params, _key(config, 0), np.int32(1)).compile()

  def draw(steps: int) -> SampleBatches:
    tokens, entropies, seconds, spent = [], [], [], []
    for batch in range(config.evaluate.num_sample_batches):
      key = jax.random.fold_in(_key(config, steps), batch)
      start = time.perf_counter()
      drawn = jax.block_until_ready(compiled(model.params, key, np.int32(steps)))
      seconds.append(time.perf_counter() - start)
      tokens.append(np.asarray(drawn.tokens[: shape[0]]))
      entropies.append(float(drawn.entropy))
      if drawn.spent is not None:
        spent.append(float(np.mean(drawn.spent[: shape[0]])))
    arrays = np.stack(tokens), np.array(entropies), np.array(seconds)
    return SampleBatches(*arrays, np.array(spent) if spent else None)

  return draw


def draw_path(config, model: Model, shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> np.ndarray:
  """States `[moments, *shape]` of examples while a model draws them in its `filmed` steps.

  They are evenly spaced, and go from noise to the tokens. Every model begins with the same noise.
  """
  padded = _padded(shape, mesh)

  @functools.partial(jax.jit, out_shardings=parallel.replicated(mesh))
  def sample(params, key):
    path = model.sample(params, key, padded, model.filmed, with_path=True).path
    last = len(path) - 1
    moments = np.linspace(0, last, min(last, _MOMENTS) + 1).astype(int)
    return path[moments, : shape[0]]

  with parallel.use(mesh):
    # No model is measured in 0 steps, so no other draw has this key.
    return np.asarray(sample(model.params, _key(config, 0)))


def _padded(shape: tuple[int, ...], mesh: jax.sharding.Mesh) -> tuple[int, ...]:
  return (-(-shape[0] // mesh.size) * mesh.size, *shape[1:])


def _key(config, steps: int) -> jax.Array:
  return jax.random.fold_in(jax.random.key(config.run.seed + 2), steps)
