import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data import toy
from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.categorical import uniforms
from dmmd_jax.diffusion.samplers import (
  Prompt,
  Sampling,
  ancestral_sample,
  finish_sample,
  grids,
  sample_autoregressively,
  sample_blocks,
)
from dmmd_jax.diffusion.samplers.ancestral import Ancestral
from dmmd_jax.diffusion.samplers.remasking import P2, ReMDM
from dmmd_jax.diffusion.samplers.revealing import Confidence, EntropyBounded


def exact(joint, process):
  return lambda z, t, key: joint.log_mean(process, z, t)


@pytest.mark.parametrize("process", [processes.Masked(2), processes.Uniform(2)])
def test_coins_need_steps(process):
  """One step of the exact teacher gets half of the correlated pairs wrong; many get few wrong."""
  joint = toy.coins()
  wrong = {}
  for nfe in (1, 64):
    x = ancestral_sample(exact(joint, process), process, jax.random.key(0), (4000, 2), nfe).tokens
    wrong[nfe] = float((x[:, 0] != x[:, 1]).mean())
    assert 0.45 < x[:, 0].mean() < 0.55
  assert 0.45 < wrong[1] < 0.55
  assert wrong[64] < 0.05


@pytest.mark.parametrize("process", [processes.Masked(3), processes.Uniform(3)])
def test_one_position_is_sampled_exactly_in_one_step(process):
  joint = toy.Mixture(np.array([1.0]), np.array([[[0.6, 0.3, 0.1]]]))
  for nfe in (1, 3):
    x = ancestral_sample(exact(joint, process), process, jax.random.key(0), (40000, 1), nfe).tokens
    np.testing.assert_allclose(np.bincount(x[:, 0]) / 40000, [0.6, 0.3, 0.1], atol=0.0125)


def test_samples_hold_no_mask_and_entropy_is_that_of_the_predictions():
  process = processes.Masked(4)

  def predict(z, t, key):
    return jnp.full((*z.shape, 4), -jnp.log(4.0))

  for nfe in (1, 2, 7):
    samples = ancestral_sample(predict, process, jax.random.key(0), (8, 5, 5, 3), nfe)
    assert samples.tokens.shape == (8, 5, 5, 3) and samples.tokens.max() < 4
    np.testing.assert_allclose(samples.entropy, np.log(4.0), rtol=1e-5)


FIXED = jnp.array([0.1, 0.6, 0.3])
ENTROPY = -(0.1 * np.log(0.1) + 0.6 * np.log(0.6) + 0.3 * np.log(0.3))


def draw(sampler, **settings):
  """20,000 tokens of a network that says `FIXED` whatever it sees; blocks are drawn by
  `ancestral_sample`."""
  process, key = processes.Masked(3), jax.random.key(0)

  def predict(z, t, key):
    return jnp.broadcast_to(jnp.log(FIXED), (*z.shape, 3))

  if sampler == "finish":
    z = jnp.full((5000, 4), 3)
    return finish_sample(predict, process, key, z, jnp.full(5000, 0.5), 2, **settings)
  if sampler == "blocks":
    return sample_blocks(
      lambda memory, start, *args: predict(*args),
      lambda memory, start, x: memory,
      None, process, key, (5000, 4), 2, 2, **settings,
    )  # fmt: skip
  return sample_autoregressively(
    lambda memory, i, previous: (jnp.broadcast_to(jnp.log(FIXED), (5000, 3)), memory),
    None, key, (5000, 4), **settings,
  )  # fmt: skip


@pytest.mark.parametrize("sampler", ["finish", "blocks", "autoregressive"])
def test_every_sampler_tempers_truncates_and_by_default_does_neither(sampler):
  plain, changed = draw(sampler), draw(sampler, temperature=0.5, top_p=0.8)
  np.testing.assert_allclose(plain.entropy, ENTROPY, rtol=1e-4)
  # The two likelier categories, in the ratio of their squares.
  for samples, law in ((plain, FIXED), (changed, np.array([0.0, 0.8, 0.2]))):
    assert samples.tokens.shape == (5000, 4) and samples.tokens.dtype == jnp.int32
    for column in np.asarray(samples.tokens).T:
      np.testing.assert_allclose(np.bincount(column, minlength=3) / 5000, law, atol=0.03)
  assert (changed.tokens > 0).all()
  # Positions are drawn independently of each other.
  same = (plain.tokens[:, :1] == plain.tokens[:, 1:]).mean(0)
  np.testing.assert_allclose(same, (FIXED**2).sum(), atol=0.03)


def test_times_of_an_even_grid_from_each_start():
  """A network that predicts the time at which it is asked: a quarter of the tokens each."""
  process = processes.Masked(9)

  def predict(z, t, key):
    category = jnp.round(t * 8).astype(int)
    certain = jnp.log(jnp.maximum(jax.nn.one_hot(category, 9), 1e-30))
    return jnp.broadcast_to(certain[:, None], (*z.shape, 9))

  z, start = jnp.full((2, 10_000), 9), jnp.array([1.0, 0.5])
  x = np.asarray(finish_sample(predict, process, jax.random.key(0), z, start, 4).tokens)
  for row, times in zip(x, ([2, 4, 6, 8], [1, 2, 3, 4]), strict=True):
    share = np.bincount(row, minlength=9) / 10_000
    np.testing.assert_allclose(share[times], 0.25, atol=0.03)
    assert share[times].sum() == 1.0
  whole = ancestral_sample(predict, process, jax.random.key(0), (1, 10_000), 4).tokens
  assert set(np.unique(whole)) == {2, 4, 6, 8}


def test_every_step_has_noise_of_its_own():
  def predict(z, t, key):
    category = jax.random.randint(key, (), 0, 1000)
    certain = jnp.log(jnp.maximum(jax.nn.one_hot(category, 1000), 1e-30))
    return jnp.broadcast_to(certain, (*z.shape, 1000))

  x = ancestral_sample(predict, processes.Masked(1000), jax.random.key(0), (1, 64), 3).tokens
  assert len(np.unique(x)) == 3


def test_blocks_are_drawn_given_those_before():
  """A block is the one before it and one, and where it begins in tens."""

  def predict(memory, start, z, t, key):
    category = memory + 1 + 10 * start
    return jnp.broadcast_to(jnp.log(jax.nn.one_hot(category, 60))[:, None], (*z.shape, 60))

  def remember(memory, start, x):
    return x[:, 0] % 10

  memory = jnp.array([0, 3])
  args = processes.Masked(60), jax.random.key(0), (2, 6), 3, 2
  x = sample_blocks(predict, remember, memory, *args).tokens
  assert x.tolist() == [[1, 1, 22, 22, 43, 43], [4, 4, 25, 25, 46, 46]]


def test_blocks_are_drawn_by_any_sampler_and_say_what_they_spent():
  """Two tokens of a block, one an evaluation: two of the five that it may take."""
  predict = lambda memory, start, z, *_: jnp.broadcast_to(jnp.log(FIXED), (*z.shape, 3))
  draw = functools.partial(
    sample_blocks, predict, lambda memory, start, x: memory, None, processes.Masked(3)
  )
  sampling = Sampling(EntropyBounded(gamma=0.0))
  drawn = jax.jit(lambda key: draw(key, (7, 6), 3, 5, draw=sampling))(jax.random.key(0))
  assert drawn.spent.tolist() == [2.0] * 7 and drawn.tokens.max() < 3
  np.testing.assert_allclose(drawn.entropy, ENTROPY, rtol=1e-4)


def test_what_blocks_of_unequal_need_spend_is_their_mean():
  """The first block is certain and takes one evaluation, the others one a token."""
  flat, certain = jnp.log(jnp.full(3, 1 / 3)), jnp.log(jnp.array([1.0, 1e-9, 1e-9]))
  predict = lambda memory, start, z, *_: jnp.broadcast_to(
    jnp.where(start == 0, certain, flat), (*z.shape, 3)
  )
  args = processes.Masked(3), jax.random.key(0), (4, 6), 3, 5
  sampling = Sampling(EntropyBounded(gamma=0.01))
  drawn = sample_blocks(predict, lambda memory, start, x: memory, None, *args, draw=sampling)
  np.testing.assert_allclose(drawn.spent, (1 + 2 + 2) / 3)


@pytest.mark.parametrize("process", [processes.Masked(3), processes.Uniform(3)])
def test_a_path_goes_from_noise_to_the_sample_that_is_drawn_without_it(process):
  joint = toy.Mixture(np.array([1.0]), np.array([5 * [[0.6, 0.3, 0.1]]]))
  args = exact(joint, process), process, jax.random.key(0), (50, 5), 4
  expected, drawn = ancestral_sample(*args), ancestral_sample(*args, with_path=True)
  assert expected.path is None
  np.testing.assert_array_equal(drawn.tokens, expected.tokens)
  path = np.asarray(drawn.path)
  assert path.shape == (5, 50, 5)
  np.testing.assert_array_equal(path[-1], expected.tokens)
  if isinstance(process, processes.Masked):
    share = (path == 3).mean((1, 2))
    np.testing.assert_allclose(share, [1, 0.75, 0.5, 0.25, 0], atol=0.12)
    # What is no mask stays.
    assert ((path[:-1] == 3) | (path[:-1] == path[1:])).all()
  else:
    np.testing.assert_allclose(np.bincount(path[0].ravel()) / 250, 1 / 3, atol=0.1)


def test_a_path_of_blocks_shows_the_whole_text():
  process, args = processes.Masked(60), (jax.random.key(0), (2, 6), 3, 2)

  def predict(memory, start, z, t, key):
    category = memory + 1 + 10 * start
    return jnp.broadcast_to(jnp.log(jax.nn.one_hot(category, 60))[:, None], (*z.shape, 60))

  remember = lambda memory, start, x: x[:, 0] % 10
  draw = functools.partial(sample_blocks, predict, remember, jnp.array([0, 3]), process, *args)
  tokens, path = np.asarray(draw().tokens), np.asarray(draw(with_path=True).path)
  assert path.shape == (3 * 2 + 1, 2, 6)
  for moment, z in enumerate(path):
    done = 2 * (moment // 2)
    np.testing.assert_array_equal(z[:, :done], tokens[:, :done])
    later = done + 2 * (moment % 2)  # the block in between is half drawn
    assert (z[:, later:] == 60).all()
    assert ((z == 60) | (z == tokens)).all()


def test_tokens_are_drawn_given_the_one_before():
  def predict(memory, i, previous):
    return jnp.log(jax.nn.one_hot(2 * previous + 3 + i + memory, 60)), memory + 1

  memory = jnp.zeros(2, int)
  x = sample_autoregressively(predict, memory, jax.random.key(0), (2, 3)).tokens
  assert x.tolist() == [[1, 7, 21]] * 2


def test_the_last_step_may_take_the_likeliest_tokens():
  predict = lambda z, t, key: jnp.broadcast_to(jnp.log(FIXED), (*z.shape, 3))
  draw = jax.jit(
    lambda n: Sampling(ends_greedily=True)(
      predict, processes.Masked(3), jax.random.key(0), (1, 8000), n
    )
  )
  for nfe, law in ((1, [0.0, 1.0, 0.0]), (2, [0.05, 0.8, 0.15])):
    share = np.bincount(np.asarray(draw(nfe).tokens)[0], minlength=3) / 8000
    np.testing.assert_allclose(share, law, atol=0.02)


def test_a_grid_says_at_which_times_a_network_is_asked():
  seen = []

  def predict(z, t, key):
    jax.debug.callback(lambda t: seen.append(round(float(t), 4)), t[0])
    return jnp.full((*z.shape, 3), -jnp.log(3.0))

  draw = Sampling(grid=grids.Own((1.0, 0.9, 0.0)))
  jax.jit(lambda n: draw(predict, processes.Masked(3), jax.random.key(0), (2, 3), n).tokens)(4)
  jax.effects_barrier()
  assert seen == [1.0, 0.95, 0.9, 0.45]


@pytest.mark.parametrize("sampler", [Ancestral(), ReMDM(eta=1.0), P2(), Confidence()], ids=repr)
def test_a_prompt_stays_and_is_seen_from_the_first_step(sampler):
  process, is_known = processes.Masked(9), jnp.array([True, False, True, False, False])
  prompt = Prompt(jnp.array([[3, 0, 1, 0, 0]]), is_known[None])
  wrong = []

  def predict(z, t, key):
    jax.debug.callback(lambda z: wrong.append((np.asarray(z)[:, [0, 2]] != [3, 1]).sum()), z)
    return jax.nn.log_softmax(jnp.sin(z[..., None] * jnp.arange(1.0, 10.0)))

  args = predict, process, jax.random.key(0), (50, 5), 6
  draw = jax.jit(lambda: Sampling(sampler)(*args, with_path=True, prompt=prompt))
  path = np.asarray(draw().path)
  jax.effects_barrier()
  assert (path[..., [0, 2]] == [3, 1]).all() and not sum(wrong) and len(wrong) >= 3
  assert (path[0][:, [1, 3, 4]] == 9).all() and path[-1].max() < 9


def test_a_prompt_is_corrupted_for_a_process_without_masks():
  process, seen = processes.Uniform(5), []
  prompt = Prompt(jnp.full((1, 2000), 4), jnp.arange(2000)[None] < 1500)

  def predict(z, t, key):
    jax.debug.callback(lambda z: seen.append(float((z[0, :1500] == 4).mean())), z)
    return jnp.full((*z.shape, 5), -jnp.log(5.0))

  args = predict, process, jax.random.key(0), (1, 2000), 4
  x = jax.jit(lambda: ancestral_sample(*args, prompt=prompt).tokens)()
  jax.effects_barrier()
  np.testing.assert_allclose(seen, [0.2, 0.4, 0.6, 0.8], atol=0.05)
  assert (x[0, :1500] == 4).all() and 0.1 < (x[0, 1500:] == 4).mean() < 0.3


@pytest.mark.parametrize("column", [0, 1])
def test_the_noise_of_a_prediction_is_not_that_of_its_tokens(column):
  """Which half of four categories it says is drawn as tokens are, but from another key."""

  def predict(z, t, key):
    first = uniforms(key, z.shape)[..., column, None] < 0.5
    law = jnp.where(first, jnp.array([0.5, 0.5, 0, 0]), jnp.array([0, 0, 0.5, 0.5]))
    return jnp.log(jnp.maximum(law, 1e-30))

  x = ancestral_sample(predict, processes.Masked(4), jax.random.key(0), (1, 10_000), 1).tokens
  np.testing.assert_allclose(np.bincount(x[0]) / 10_000, 0.25, atol=0.02)


def test_a_prompt_is_none_of_the_tokens_that_a_schedule_counts():
  known = jnp.arange(8) < 4
  prompt = Prompt(jnp.zeros((1, 8), int), known[None])
  predict = lambda z, t, key: jnp.broadcast_to(jnp.log(FIXED), (*z.shape, 3))
  for sampler in (P2(eta=0.0), Confidence()):
    drawn = Sampling(sampler)(
      predict, processes.Masked(3), jax.random.key(0), (50, 8), 2, with_path=True, prompt=prompt
    )
    assert ((drawn.path[1] == 3).sum(1) == 2).all() and (drawn.tokens[:, :4] == 0).all()
