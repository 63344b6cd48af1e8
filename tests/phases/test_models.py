"""What models draw; what is measured of it is in test_evaluate.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import toy_dmmd
from dmmd_jax import parallel
from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.samplers import Samples, Sampling, ancestral_sample, grids
from dmmd_jax.diffusion.samplers.revealing import EntropyBounded
from dmmd_jax.phases import build, models


@pytest.mark.parametrize("steps", [1, 5, 64, 1000])
def test_moments_of_a_film_are_few_evenly_spaced_and_the_last_is_the_sample(steps):
  mesh = parallel.make_mesh()
  seen = []

  def sample(params, key, shape, steps, with_path):
    seen.append((shape, steps))
    states = jnp.arange(steps + 1)[:, None, None] + jnp.zeros((*shape,), int)
    return Samples(states[-1], 0.0, states if with_path else None)

  model = models.Model("a", sample, (), (1,), filmed=steps)
  path = models.draw_path(toy_dmmd.get_config(), model, (4, 3), mesh)
  assert path.shape == (min(steps, 64) + 1, 4, 3) and seen == [((mesh.size, 3), steps)]
  moments = path[:, 0, 0]
  assert moments[0] == 0 and moments[-1] == steps
  gaps = np.diff(moments)
  assert gaps.min() >= 1 and gaps.max() - gaps.min() <= 1


def test_films_begin_with_the_same_noise_and_differ_from_all_that_is_measured():
  keys = []

  def sample(params, key, shape, steps, with_path=False):
    tokens = jnp.zeros(shape, int) + jax.random.randint(key, (), 0, 2**30)
    keys.append(steps)
    return Samples(tokens, jnp.float32(0), tokens[None] if with_path else None)

  config, mesh = toy_dmmd.get_config(), parallel.make_mesh()
  config.evaluate.num_sample_batches = 2
  both = [models.Model(name, sample, (), (1,), filmed=n) for name, n in (("a", 3), ("b", 7))]
  first, second = (models.draw_path(config, model, (8, 1), mesh)[-1, 0, 0] for model in both)
  measured = models.make_draw(config, both[0], (8, 1), mesh)(1).tokens[:, 0, 0]
  assert first == second and keys[:2] == [3, 7]
  assert len({first, *measured.tolist()}) == 3


def test_what_an_adaptive_sampler_spends_is_the_mean_over_samples_of_each_batch():
  config, mesh = toy_dmmd.get_config(), parallel.make_mesh()
  config.evaluate.num_sample_batches = 2
  config.evaluate.update({"grid": "cosine", "entropy_bounded": {"gamma": 2.0}})
  sampling = build.make_sampling(config.evaluate, "entropy_bounded")
  assert sampling == Sampling(EntropyBounded(gamma=2.0), grids.Cosine())
  process = processes.Masked(3)
  predict = lambda z, t, key: jnp.log(jnp.full((*z.shape, 3), 1 / 3))
  sample = lambda params, key, shape, steps: sampling(predict, process, key, shape, steps)
  # Of three tokens of 1.1 nats two are revealed together; five samples are padded to eight.
  drawn = models.make_draw(config, models.Model("a", sample, (), (9,)), (5, 3), mesh)(9)
  np.testing.assert_array_equal(drawn.spent, [2.0, 2.0])
  assert drawn.tokens.shape == (2, 5, 3) and drawn.tokens.max() < 3
  config.evaluate.update({"grid": "own", "times": (1.0, 0.5, 0.0), "last_step": "greedy"})
  expected = Sampling(grid=grids.Own((1.0, 0.5, 0.0)), ends_greedily=True)
  assert build.make_sampling(config.evaluate, "ancestral") == expected


def test_one_program_draws_what_a_program_for_each_number_of_steps_draws():
  config, mesh = toy_dmmd.get_config(), parallel.make_mesh()
  config.evaluate.num_sample_batches = 1
  process = processes.Masked(3)
  predict = lambda z, t, key: jnp.log(jnp.broadcast_to(jnp.array([0.2, 0.5, 0.3]), (*z.shape, 3)))
  sample = lambda params, key, shape, steps: ancestral_sample(predict, process, key, shape, steps)
  draw = models.make_draw(config, models.Model("a", sample, (), (1, 3)), (16, 4), mesh)
  for steps in (1, 3):
    key = jax.random.fold_in(models._key(config, steps), 0)
    found, expected = draw(steps), sample((), key, (16, 4), steps)
    np.testing.assert_array_equal(found.tokens[0], expected.tokens)
    np.testing.assert_allclose(found.entropy, expected.entropy, rtol=1e-6)
  assert (draw(1).tokens != draw(3).tokens).any()
