import functools

import numpy as np
import pytest

from dmmd_jax.data import digits, toy
from dmmd_jax.metrics import suites
from dmmd_jax.metrics.frechet import frechet_distance
from dmmd_jax.metrics.suites import joint_metrics, make_measures, total_variation


def test_frechet_distance_of_equal_sets_is_zero_and_of_a_shift_its_square():
  x = np.random.default_rng(0).normal(size=(500, 6))
  np.testing.assert_allclose(frechet_distance(x, x), 0.0, atol=1e-8)
  np.testing.assert_allclose(frechet_distance(x, x + 2.0), 24.0, rtol=1e-8)
  np.testing.assert_allclose(
    frechet_distance(x, 3 * x),
    4 * x.var(0, ddof=1).sum() + 4 * np.square(x.mean(0)).sum(),
    rtol=1e-6,
  )


def test_frechet_distance_equals_the_formula_with_a_matrix_square_root():
  linalg = pytest.importorskip("scipy.linalg")  # comes with jax
  rng = np.random.default_rng(1)
  x, y = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)), rng.normal(size=(200, 5))
  a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
  expected = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
  np.testing.assert_allclose(frechet_distance(x, y), expected, rtol=1e-6)


def test_joint_metrics_tell_good_samples_from_bad():
  joint = toy.mixture(6, 4, 5, peak=0.9)
  good = joint_metrics(joint, joint.sample(4000, seed=0))
  shuffled = joint.sample(4000, seed=0)
  for column in shuffled.T:
    np.random.default_rng(int(column[0])).shuffle(column)
  bad = joint_metrics(joint, shuffled)
  assert good["component_tv"] < 0.05 and bad["nll"] > good["nll"] + 0.3
  rows = joint.sample(200_000, seed=1)
  entropy = -np.log(np.exp(joint.log_joint(rows)).sum(-1)).mean() / 6
  assert abs(good["nll"] - entropy) < 0.02


def test_impossible_samples_are_counted_and_give_no_likelihood():
  x = np.array([[0, 0], [1, 1], [0, 1], [1, 1]])
  metrics = joint_metrics(toy.coins(), x)
  assert metrics["impossible"] == 0.25 and "nll" not in metrics
  np.testing.assert_allclose(metrics["component_tv"], 2 / 3 - 1 / 2)
  assert joint_metrics(toy.coins(), x[2:3]) == {"impossible": 1.0, "component_tv": 1.0}


def test_digit_measures_rank_data_above_noise_and_notice_lost_classes(monkeypatch):
  quickly = functools.partial(suites.train_classifier, steps=300)
  monkeypatch.setattr(suites, "train_classifier", quickly)
  data = digits.load()
  measure = make_measures(data).of_batch
  real = measure(data.train[:360], 0)
  noise = measure(np.random.default_rng(0).integers(0, 17, data.held_out.shape), 0)
  assert real["frechet"] < 0.2 * noise["frechet"]
  few = data.train[np.isin(data.train_labels, range(5))][:360]
  assert measure(few, 0)["class_tv"] > 0.4 > 4 * real["class_tv"]


def test_total_variation():
  assert total_variation(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
