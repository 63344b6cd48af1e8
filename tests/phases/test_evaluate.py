"""What evaluation measures, on which data, with which settings, and what it says it spent."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_dmmd, toy_dmmd
from dmmd_jax import parallel, records
from dmmd_jax.config_file import ConfigError
from dmmd_jax.data import digits
from dmmd_jax.data.pipeline import Batch, Dataset
from dmmd_jax.diffusion.samplers import Samples, Sampling
from dmmd_jax.diffusion.samplers.grids import Cosine
from dmmd_jax.diffusion.samplers.remasking import Psi
from dmmd_jax.metrics import suites
from dmmd_jax.metrics.classifier import train_classifier
from dmmd_jax.metrics.ngram import KneserNey
from dmmd_jax.metrics.suites import Measures, make_measures
from dmmd_jax.phases import build, distill, evaluate, teacher
from dmmd_jax.positions import whole
from tests.phases.test_reference import dataset as texts
from tests.phases.test_reference import small_config


def one_device():
  return jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1, 1), parallel.AXES)


def random_params(denoiser):
  """Parameters for which everything matters, classes too."""
  rng = np.random.default_rng(0)
  shapes = nn.unbox(jax.eval_shape(denoiser.init, jax.random.key(0)))
  return jax.tree.map(lambda x: rng.normal(0, 0.3, x.shape).astype(x.dtype), shapes)


# Examples in any order


def in_class_order(images, labels):
  order = np.argsort(labels, kind="stable")
  return images[order], labels[order]


def measured_on_real_data(data, monkeypatch):
  """The row of real data, by a classifier of 400 examples and 150 held out by the kernel."""
  config = digits_dmmd.get_config()
  config.evaluate.update({"sample_batch_size": 100, "num_sample_batches": 3})
  monkeypatch.setattr(suites, "CLASSIFIED", 400)

  def quickly(tokens, labels, num_categories):
    assert len(np.unique(labels)) == 10
    return train_classifier(tokens, labels, num_categories, steps=200)

  monkeypatch.setattr(suites, "train_classifier", quickly)
  monkeypatch.setattr(suites, "COMPARED", 150)
  return evaluate.measure_real(config, data, make_measures(data))[1]


def test_data_in_class_order_are_measured_as_shuffled_ones(monkeypatch):
  """With a prefix in place of a random draw, real data are compared with one class of real data."""
  data = digits.load()
  shuffled = measured_on_real_data(data, monkeypatch)
  train, validation, held_out = (
    in_class_order(*split)
    for split in (
      (data.train, data.train_labels),
      (data.validation, data.validation_labels),
      (data.held_out, data.held_out_labels),
    )
  )
  data = Dataset(
    train[0], held_out[0], 17, train[1], held_out[1],
    validation=validation[0], validation_labels=validation[1],
  )  # fmt: skip
  ordered = measured_on_real_data(data, monkeypatch)
  assert ordered.keys() == {"frechet", "class_tv", "kernel_mmd"}
  for metric, (value, stderr) in ordered.items():
    expected, error = shuffled[metric]
    assert abs(value - expected) < 4 * np.hypot(error, stderr), (metric, value, expected)


def test_the_marginal_process_counts_a_random_draw(monkeypatch):
  monkeypatch.setattr(build, "_COUNTED", 200)
  config = toy_dmmd.get_config()
  config.process.name = "marginal"
  tokens = np.repeat(np.arange(4), 250)[:, None]
  probs = build.make_process(config, Dataset(tokens, tokens, 4)).probs
  assert min(probs) > 0.15


def test_likelihoods_count_a_random_draw_of_texts(monkeypatch):
  """A prefix of a corpus is a few of its subjects."""
  seen = []
  monkeypatch.setattr(
    evaluate, "KneserNey", lambda rows, k: seen.append(rows) or KneserNey(rows, k)
  )
  monkeypatch.setattr(evaluate, "COMPARED", 20)
  monkeypatch.setattr(
    teacher, "negative_elbo", lambda _, params, x, *args, **kwargs: np.arange(len(x))
  )
  held_out = np.repeat(np.arange(10), 10)[:, None].repeat(8, 1)
  stream = np.repeat(np.arange(20), 40)
  data = dataclasses.replace(
    texts(), train=np.lib.stride_tricks.sliding_window_view(stream, 8), held_out=held_out
  )
  bits = evaluate.likelihoods(small_config(), None, data)
  np.testing.assert_array_equal(seen[0], stream)  # all of it, in order: few enough
  value, stderr = bits["Teacher (upper bound)"]
  # In bits: the mean of 0 to 19 nats.
  np.testing.assert_allclose(value, 9.5 / np.log(2))
  np.testing.assert_allclose(stderr, np.arange(20).std(ddof=1) / np.sqrt(20) / np.log(2))

  monkeypatch.setattr(evaluate, "COUNTED", 50)
  evaluate.likelihoods(small_config(), None, data)
  assert seen[1].shape == (50, 8) and len(np.unique(seen[1])) > 15


# Splits


def test_settings_are_chosen_without_the_test_split():
  data = digits.load()
  chosen = evaluate.with_split(data, "validation")
  np.testing.assert_array_equal(chosen.held_out, data.validation)
  np.testing.assert_array_equal(chosen.held_out_labels, data.validation_labels)
  test = {image.tobytes() for image in data.held_out}
  config = digits_dmmd.get_config()
  config.evaluate.sample_batch_size = 300
  for split, expected in (("validation", "train"), ("held_out", "validation")):
    compared = evaluate.with_split(data, split)
    seen = []
    measures = Measures(lambda tokens, _: {"n": float(len(seen.extend(tokens) or tokens))})  # noqa: B023
    name, real = evaluate.measure_real(config, compared, measures)
    assert name == expected and real["n"][0] == 300
    assert len(seen) == (900 if expected == "train" else 300)
    assert not test & {image.tobytes() for image in seen}
    assert not {x.tobytes() for x in compared.held_out} & {image.tobytes() for image in seen}
  assert evaluate.with_split(data, "held_out") is data


def test_a_validation_split_of_less_than_a_batch_is_not_measured():
  config = digits_dmmd.get_config()
  measures = Measures(lambda tokens, _: {"n": float(len(tokens))})
  for size, expected in ((361, "train"), (360, "validation"), (1078, "train")):
    config.evaluate.sample_batch_size = size
    name, real = evaluate.measure_real(config, digits.load(), measures)
    assert name == expected and ("n" in real) == (size < 1078)


def test_images_without_a_validation_split_cannot_choose_settings(tmp_path):
  config = digits_dmmd.get_config()
  config.dataset.update({"name": "npz", "path": str(tmp_path / "x.npz"), "shape": (8, 8, 1)})
  config.dataset.flip = False
  np.savez(tmp_path / "x.npz", images=np.zeros((20, 8, 8), np.uint8))
  assert len(build.make_dataset(config).train) == 18
  config.evaluate.split = "validation"
  with pytest.raises(ConfigError, match=r"evaluate.split is validation; npz has no such split"):
    build.make_dataset(config)
  del config.evaluate, config.phases  # as a teacher's record is, of which samples are drawn
  assert len(build.make_dataset(config).train) == 18


# Settings of the teacher


def test_the_teacher_is_sampled_by_its_sampler_with_guidance_temperature_and_top_p(monkeypatch):
  config = digits_dmmd.get_config()
  config.network.update({"width": 16, "depth": 1, "heads": 2, "classes": True})
  data = build.make_dataset(config)
  denoiser = build.make_denoiser(config, data)
  params = random_params(denoiser)
  monkeypatch.setattr(build, "load_ema", lambda *_: params)
  labels = jnp.arange(10)

  def log_mean(z, t, labels):
    return whole(denoiser.given(Batch(None, labels)).log_mean(params, z, t))

  def guided(z, t, key):
    given, without = log_mean(z, t, labels), log_mean(z, t, jnp.full(10, 10))
    return jax.nn.log_softmax(2.5 * given - 1.5 * without)

  shape, key = (10, *data.shape), jax.random.key(5)
  expected = jax.jit(
    lambda key: Sampling(Psi(0.5), Cosine())(guided, denoiser.process, key, shape, 3, 0.7, 0.8)
  )(key)

  settings = {"teacher_guidance": 1.5, "teacher_temperature": 0.7, "teacher_top_p": 0.8}
  config.evaluate.update(settings | {"sampler": "psi", "grid": "cosine", "psi": {"kappa": 0.5}})
  sources = {"teacher": records.Source(None, {"config": config.to_dict()})}
  (model,) = evaluate.make_models(config, sources, data, None, one_device())
  assert model.filmed == 64  # the largest of its NFE
  samples = jax.jit(lambda key: model.sample(params, key, shape, 3))(key)
  np.testing.assert_array_equal(samples.tokens, expected.tokens)
  np.testing.assert_allclose(samples.entropy, expected.entropy, rtol=1e-4)
  assert samples.entropy > 0.01


@pytest.mark.parametrize("phase", ["distill", "evaluate"])
def test_a_teacher_that_was_trained_without_leaving_out_labels_is_not_guided(phase):
  """Its own record says so, whatever the config of the student that is distilled from it."""
  config = digits_dmmd.get_config()
  config.network.classes = True
  config.distill.guidance = config.evaluate.teacher_guidance = 1.0
  data = build.make_dataset(config)
  theirs = config.copy_and_resolve_references()
  theirs.teacher.label_dropout = 0.0
  sources = {"teacher": records.Source(None, {"config": theirs.to_dict()})}
  with pytest.raises(ConfigError, match="label_dropout 0; one that has always seen labels"):
    if phase == "distill":
      distill.run(config, data, None, one_device(), sources)
    else:
      evaluate.make_models(config, sources, data, None, one_device())


@pytest.mark.parametrize("field", [{"grid": "cosine"}, {"last_step": "greedy"}])
@pytest.mark.parametrize("method", ["dimo", "redi"])
def test_a_student_that_draws_in_a_way_of_its_own_takes_no_grid_or_last_step(
  method, field, monkeypatch
):
  """What made it says so, whatever the method in the config of the evaluation."""
  config = digits_dmmd.get_config()
  theirs = config.copy_and_resolve_references()
  theirs.distill.method = method
  config.evaluate.update(field)
  data = build.make_dataset(config)
  monkeypatch.setattr(build, "load_ema", lambda *_: None)
  monkeypatch.setattr(build, "load_student", lambda *_: None)
  sources = {"teacher": config, "student": theirs}
  sources = {name: records.Source(None, {"config": c.to_dict()}) for name, c in sources.items()}
  with pytest.raises(ConfigError, match=f"a student of {method} is drawn in a way of its own"):
    evaluate.make_models(config, sources, data, None, one_device())
  config.evaluate.update({"grid": "even", "last_step": "drawn"})
  teacher, student = evaluate.make_models(config, sources, data, None, one_device())
  assert (teacher.name, student.name) == ("teacher", "student")


# Evaluations that are spent


class Counting:
  """Stands for a network: counts how often each token of a batch is asked for."""

  def __init__(self, module):
    self.config, self.num_categories = module.config, module.config.num_categories
    self.tokens = 0

  def apply(self, params, z, *_, method, cache=None, **__):
    if method == "head":
      return z
    self.tokens += z.shape[1] if len(z) > 1 else 0
    logits = jnp.zeros((*z.shape, self.num_categories))
    return logits if cache is None else (logits, cache)


def python_scan(step, carry, xs):
  """What `jax.lax.scan` gives, with a call of `step` for every step."""
  ys = []
  for x in xs:
    carry, y = step(carry, x)
    ys.append(y)
  return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *ys)


def python_loop(start, stop, body, carry):
  """What `jax.lax.fori_loop` gives, likewise."""
  for i in range(start, stop):
    carry = body(i, carry)
  return carry


@pytest.mark.parametrize(
  ("network", "guidance", "nfe"),
  [({}, 0.0, 3), ({}, 1.5, 3), ({"classes": True}, 0.0, 3), ({"classes": True}, 1.5, 6),
   ({"block": 4}, 0.0, 4)],
)  # fmt: skip
def test_nfe_of_a_row_is_what_the_network_was_asked_for(network, guidance, nfe, monkeypatch):
  """A row has the steps that were asked for, and the evaluations of each token that they took."""
  data = texts()
  if "classes" in network:
    none = np.zeros(len(data.train), int)
    data = dataclasses.replace(data, train_labels=none, held_out_labels=none[:5])
  denoiser = build.make_denoiser(small_config(**network), data).guided(guidance)
  denoiser = dataclasses.replace(denoiser, module=Counting(denoiser.module))
  sample = build.make_sampler(denoiser, one_device())
  monkeypatch.setattr(jax.lax, "scan", python_scan)
  monkeypatch.setattr(jax.lax, "fori_loop", python_loop)
  jax.eval_shape(lambda key: sample({}, key, (2, 8), 3), jax.random.key(0))
  batches = evaluate.SampleBatches(np.zeros((1, 2, 8), int), np.zeros(1), np.ones(1))
  model = evaluate.Model("teacher", sample, {}, (3,), denoiser.evaluations)
  (row,) = evaluate.result_rows(model, 3, batches, Measures(lambda *_: {}))
  assert (row["steps"], row["nfe"]) == (3, denoiser.module.tokens / 8) == (3, nfe)


def test_a_row_says_what_an_adaptive_sampler_has_spent():
  zeros = np.zeros(2)
  batches = evaluate.SampleBatches(np.zeros((2, 3, 8), int), zeros, zeros, np.array([3.0, 4.0]))
  model = evaluate.Model("teacher", None, {}, (8,), lambda steps: 2 * steps)
  rows = list(evaluate.result_rows(model, 8, batches, Measures(lambda *_: {})))
  spent = {row["metric"]: (row["nfe"], row["value"], row["stderr"]) for row in rows}["nfe_spent"]
  assert spent == (16, 7.0, 1.0)


def constant_model(name, steps, nfe=lambda steps: steps):
  def sample(params, key, shape, steps):
    tokens = jax.random.randint(key, shape, 0, 2) + 2 * steps
    return Samples(tokens, jnp.float32(steps))

  return evaluate.Model(name, sample, (), steps, nfe)


def test_rows_repeat_and_seconds_stand_apart():
  config = toy_dmmd.get_config()
  config.evaluate.update({"sample_batch_size": 6, "num_sample_batches": 2})
  data = Dataset(np.zeros((9, 3), int), np.zeros((9, 3), int), 9)
  models = [constant_model("a", (1, 2), lambda steps: 2 * steps), constant_model("b", (2,))]
  measures = Measures(
    lambda tokens, batch: {"mean": float(tokens.mean()), "batch": float(batch)},
    lambda tokens: {"of all": float(len(tokens))},
  )
  once, again = (
    evaluate.measure_models(config, models, data, measures, one_device()) for _ in range(2)
  )
  rows, seconds, samples = once
  assert json.dumps(rows) == json.dumps(again[0])
  keys = {"model", "steps", "nfe", "metric", "value", "stderr", "num_samples"}
  assert all(row.keys() == keys and row["num_samples"] == 12 for row in rows)
  cells = [("a", 1, 2), ("a", 2, 4), ("b", 2, 2)]
  assert [(s["model"], s["steps"], s["nfe"]) for s in seconds] == cells
  assert all(s["seconds_per_sample"] > 0 for s in seconds)
  assert list(dict.fromkeys((r["model"], r["steps"], r["nfe"]) for r in rows)) == cells
  found = {(r["model"], r["steps"], r["metric"]): (r["value"], r["stderr"]) for r in rows}
  assert found["a", 1, "of all"] == (12.0, None)
  assert found["a", 1, "batch"] == (0.5, 0.5) and found["b", 2, "entropy"] == (2.0, 0.0)
  # Draws are the same for the same steps, others for other batches, and samples are by steps.
  np.testing.assert_array_equal(samples["a"][2], samples["b"][2])
  assert samples["a"][1].shape == (12, 3) and samples["a"][1].dtype == np.uint8
  assert found["a", 2, "mean"][1] > 0


def test_statistics_of_batches():
  measured = [{"x": 1.0, "y": 5.0}, {"x": 2.0, "y": 5.0}, {"x": 6.0}]
  assert list(evaluate.batch_statistics(measured)) == [("x", 3.0, pytest.approx(np.sqrt(7 / 3)))]
  assert list(evaluate.batch_statistics(measured[:1])) == [("x", 1.0, None), ("y", 5.0, None)]
  assert list(evaluate.batch_statistics([])) == []
