"""The features that Fréchet distances of images are in: any change of them changes all results."""

import inspect

import numpy as np

from dmmd_jax.metrics.classifier import train_classifier


def patches(num, seed):
  """Grey levels up to 9 of three classes, by which corner is bright."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(3, size=num)
  x = rng.integers(0, 5, size=(num, 2, 2, 1))
  x.reshape(num, 4)[np.arange(num), labels] += 5
  return x, labels


def test_features_are_the_ones_of_published_distances():
  x, labels = patches(200, 0)
  classifier = train_classifier(x, labels, 10, steps=30)
  features, logits = map(np.asarray, classifier.predict(x[:50]))
  assert features.shape == (50, 64) and logits.shape == (50, 3) and classifier.num_classes == 3
  # Recorded of the recipe as it is, on a CPU.
  found = [features.mean(), features.std(), np.abs(logits).mean(), features[0].max()]
  np.testing.assert_allclose(found, [0.213544, 0.463200, 1.551758, 1.550314], rtol=1e-3)
  defaults = inspect.signature(train_classifier).parameters
  assert (defaults["steps"].default, defaults["seed"].default) == (2000, 0)
  unseen, expected = patches(50, 1)
  assert (np.argmax(classifier.predict(unseen)[1], -1) == expected).mean() > 0.9


def test_tokens_of_sequences_have_no_order():
  """Classes that no threshold on a token tells apart."""
  rng = np.random.default_rng(2)
  kinds, x = rng.integers(2, size=64), rng.integers(0, 64, size=(4000, 4))
  labels = kinds[x[:, 1]]
  classifier = train_classifier(x[:3500], labels[:3500], 64, steps=500)
  features, logits = map(np.asarray, classifier.predict(x[3500:]))
  assert features.shape == (500, 64) and (np.argmax(logits, -1) == labels[3500:]).mean() > 0.95
