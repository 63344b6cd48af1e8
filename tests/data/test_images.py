import numpy as np

from dmmd_jax.data import images


def test_stripes_are_the_same_every_time_and_told_apart_by_class():
  data, again = images.stripes(), images.stripes()
  assert data.train.shape == (512, 32, 32, 3) and data.held_out.shape == (256, 32, 32, 3)
  assert data.train.dtype == np.uint8 and data.num_categories == 256
  np.testing.assert_array_equal(data.train, again.train)
  assert set(data.train_labels) == set(data.held_out_labels) == set(range(10))
  # The mean colour of an image alone is close to that of its class.
  colours = data.train.mean((1, 2))
  means = np.stack([colours[data.train_labels == k].mean(0) for k in range(10)])
  distances = np.linalg.norm(data.held_out.mean((1, 2))[:, None] - means, axis=-1)
  assert np.mean(distances.argmin(1) == data.held_out_labels) > 0.9
  assert images.stripes((8, 6, 1), 3, 2).train.shape == (3, 8, 6, 1)
