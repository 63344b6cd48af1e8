"""Di[M]O beside NumPy, and beside enumeration of every input, sample and masked sample."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_dimo, digits_dmmd
from dmmd_jax import config as checks
from dmmd_jax import drawing
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.diffusion.samplers import ancestral_sample
from dmmd_jax.distillation import dimo, parts
from dmmd_jax.phases import build, distill, models
from tests import enumeration
from tests.distillation.lookups import Spy, run
from tests.phases.tables import DATA, make_config, make_params, tables  # noqa: F401

K, D, T = 3, 2, 0.6
MASKED = processes.Masked(K, schedules.Cosine())
KEY = jax.random.key(3)


def make_method(network=None, process=MASKED, temperature=1.0, top_p=1.0, **settings):
  p = parts.Parts(
    process, network, network, network, "mean", K, 1, 1, False, temperature, top_p, 2.0, None, None
  )
  return dimo.DiMO(p, dimo.DiMOSettings(**settings))


def softmax(logits):
  p = np.exp(logits - logits.max(-1, keepdims=True))
  return p / p.sum(-1, keepdims=True)


def divergence(phi, theta, weight):
  """(1 - weight) KL(theta | phi) + weight KL(phi | theta)."""
  ratio = np.log(phi / theta)
  return ((1 - weight) * theta * -ratio + weight * phi * ratio).sum()


@pytest.mark.parametrize(
  ("settings", "weight"),
  [({}, 0.0), ({"divergence": "jeffreys", "jeffreys_weight": -0.2}, -0.2),
   ({"divergence": "jeffreys", "jeffreys_weight": 0.7}, 0.7)],
)  # fmt: skip
def test_the_gradient_is_that_of_the_divergence_in_the_auxiliary_models_logits(settings, weight):
  rng = np.random.default_rng(0)
  phi, theta, own = rng.normal(0, 1.5, (3, 1, 4, K))
  z = np.array([[K, 0, K, 2]])
  method = make_method(**settings)

  def of_own(logits):
    log_theta, log_phi = (jax.nn.log_softmax(jnp.asarray(a)) for a in (theta, phi))
    log_p = jax.nn.log_softmax(logits)
    (loss, _), (value, _) = method._losses_of_position(
      log_theta, log_phi, log_p, np.zeros_like(z), z
    )
    return loss.sum(), value

  with jax.enable_x64(True):
    found, values = jax.jit(jax.grad(of_own, has_aux=True))(own)
  expected, h = np.zeros((4, K)), 1e-6
  for d, c in itertools.product((0, 2), range(K)):
    above, below = (softmax(phi[0, d] + sign * h * np.eye(K)[c]) for sign in (1, -1))
    target = softmax(theta[0, d])
    expected[d, c] = divergence(above, target, weight) - divergence(below, target, weight)
    np.testing.assert_allclose(
      values[0, d], divergence(softmax(phi[0, d]), target, weight), rtol=1e-9
    )
  np.testing.assert_allclose(found[0], expected / (2 * h), atol=1e-7)


def test_losses_of_a_step_are_those_written_out(monkeypatch):
  """The generator is asked once, at 1, with noise; the sample at all positions is masked anew."""
  size, length = 5, 10
  logits = np.random.default_rng(1).normal(size=(3, K + 1, K)).astype(np.float32)
  spy = Spy()
  x = np.random.default_rng(2).integers(0, K, (size, length))
  monkeypatch.setattr(dimo, "draw", lambda log_p, u: jnp.asarray(x))
  method = make_method(spy, temperature=0.7, mask_ratio=0.66)
  batch = Batch(np.zeros((size, length), int), None)
  of_models = lambda eta, phi: method.losses(eta, phi, logits[2], batch, KEY)
  (generator, auxiliary), metrics, gradients = run(of_models, [spy], *logits[:2])
  (z_1, t_1, noisy), *others = spy.asked
  z_t, t, _ = others[0]
  assert noisy and (t_1 == 1).all() and len(others) == 2
  assert ((z_1 == K).sum(1) == 7).all() and len({*map(tuple, z_1 == K)}) > 1
  for other in others:
    np.testing.assert_array_equal(other[0], z_t)
    np.testing.assert_array_equal(other[1], t)
    assert not other[2]
  assert t.min() >= 0 and t.max() <= 1 and len({*t}) == size
  masked = z_t == K
  assert masked.any() and not masked.all()
  np.testing.assert_array_equal(z_t[~masked], x[~masked])

  p, phi, theta = softmax(logits.astype(np.float64) / [[[1.0]], [[1.0]], [[0.7]]])
  slope = np.where(masked[..., None], phi[z_t] - theta[z_t], 0) / x.size
  np.testing.assert_allclose(generator, (slope * np.log(p)[z_1]).sum(), rtol=1e-4)
  target = 0.9 * np.eye(K)[x] + 0.1 / K
  expected = -(masked * (target * np.log(phi)[z_t]).sum(-1)).mean()
  np.testing.assert_allclose(auxiliary, expected, rtol=1e-5)
  divergences = (theta * np.log(theta / phi)).sum(-1)[z_t]
  np.testing.assert_allclose(metrics["divergence"], divergences[masked].mean(), rtol=1e-4)

  (of_eta, none), (nothing, of_phi) = gradients
  assert (none == 0).all() and (nothing == 0).all() and (of_phi != 0).any()
  expected = np.zeros((K + 1, K))
  np.add.at(expected, z_1, slope)
  np.testing.assert_allclose(of_eta, expected, atol=1e-6)


def test_inputs_have_as_many_masks_in_any_places_and_any_tokens():
  def make_input(ratio, *shape):
    return jax.jit(lambda key: make_method(mask_ratio=ratio).make_input(MASKED, key, shape))(KEY)

  z = make_input(0.5, 6000, D, 1)
  rows, counts = np.unique(np.asarray(z).reshape(-1, D), axis=0, return_counts=True)
  assert {*map(tuple, rows)} == {*((K, c) for c in range(K)), *((c, K) for c in range(K))}
  assert np.abs(counts - 1000).max() < 5 * np.sqrt(1000)
  for ratio, num in ((0.01, 1), (0.6, 6), (1.0, 10)):
    z = make_input(ratio, 4, 10)
    assert ((z == K).sum(1) == num).all()


class Enumerated:
  """Every input, sample and masked sample at T, with its probability, for a generator's table."""

  def __init__(self, table):
    inputs = [(K, c) for c in range(K)] + [(c, K) for c in range(K)]
    x, z = enumeration.sequences(K, D), enumeration.sequences(K + 1, D)
    of_x = np.stack([np.prod([row[d, x[:, d]] for d in range(D)], 0) for row in table])
    self.joint = of_x.mean(0)
    step = enumeration.likelihood(MASKED, z, x, T).prod(-1).T  # [x, z_t]
    probs = of_x[:, :, None] * step / len(inputs)
    self.index = i, j, k = np.nonzero(probs)
    self.probs, self.start, self.x, self.z = probs[self.index], i, x[j], z[k]
    np.testing.assert_allclose(self.probs.sum(), 1.0)

  def losses(self, method, log_p, log_phi, log_theta):
    """Expected losses of generator and auxiliary model, of log-probabilities by input and z_t."""
    at = self.index[2]
    (generator, auxiliary), _ = method._losses_of_position(
      log_theta[at], log_phi[at], log_p[self.start], self.x, self.z
    )
    return tuple((self.probs[:, None] * loss).sum() for loss in (generator, auxiliary))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_the_auxiliary_model_and_the_student_rest(smoothing):
  """It rests at what is known of a sample, evened out; the student where that is the teacher."""
  rng = np.random.default_rng(0)
  table = rng.dirichlet(np.ones(K), (2 * K, D))
  cases, method = Enumerated(table), make_method(label_smoothing=smoothing)
  z = enumeration.sequences(K + 1, D)
  mean = np.maximum(enumeration.predictions(MASKED, cases.joint, z, T)[0], 1e-30)
  rest = (1 - smoothing) * mean + smoothing / K
  other = 0.7 * rest + 0.3 * rng.dirichlet(np.ones(K), rest.shape[:2])

  @jax.jit
  def gradients(phi, theta):
    def loss(logits, log_phi):
      log_phi = jax.nn.log_softmax(log_phi)
      return cases.losses(method, jax.nn.log_softmax(logits), log_phi, jnp.log(theta))

    _, pullback = jax.vjp(loss, jnp.log(table), jnp.log(phi))
    of_student, of_auxiliary = pullback((1.0, 0.0))[0], pullback((0.0, 1.0))[1]
    return jnp.abs(of_student).max(), jnp.abs(of_auxiliary).max()

  with jax.enable_x64(True):
    student, auxiliary = gradients(rest, rest)
    assert student < 1e-12 and auxiliary < 1e-12
    student, auxiliary = gradients(rest, other)
    assert student > 1e-3 and auxiliary < 1e-12
    student, auxiliary = gradients(other, other)
    assert student < 1e-12 and auxiliary > 1e-3


def test_categories_that_never_occur_take_no_part_in_label_smoothing():
  log_phi = np.log(softmax(np.array([[[1.0, 0.0, -1.0]]])))
  filled = np.concatenate([log_phi, np.full((1, 1, 2), -1e9)], -1)
  x = np.zeros((1, 1), int)

  @jax.jit
  def of_both(log_phi, filled):
    larger = make_method(process=processes.Masked(5))
    three = make_method()._losses_of_position(*[log_phi] * 3, x, np.full((1, 1), K))
    five = larger._losses_of_position(*[filled] * 3, x, np.full((1, 1), 5))
    return three[0][1], five[0][1]

  np.testing.assert_allclose(*of_both(log_phi, filled))


def test_samples_come_from_one_evaluation_at_all_positions():
  asked = []

  def predict(z, t, key):
    asked.append((z, t))
    return jnp.log(jax.nn.one_hot((z + 1) % K, K) + 1e-20)

  def flat(z, t, key):
    return jnp.broadcast_to(np.log([0.6, 0.3, 0.1]), (*z.shape, K))

  @jax.jit
  def draw(key):
    method = make_method(mask_ratio=0.25)
    drawn = method.sample(predict, MASKED, key, (50, 8), 7, with_path=True)
    kept = method.sample(flat, MASKED, key, (50, 8), 1, top_p=0.5)
    colder = method.sample(flat, MASKED, key, (50, 8), 1, temperature=0.5)
    return drawn, kept, colder, asked

  drawn, kept, colder, ((z, t),) = jax.tree.map(np.asarray, draw(KEY))
  assert (t == 1).all() and ((z == K).sum(1) == 2).all()
  np.testing.assert_array_equal(drawn.tokens, (z + 1) % K)
  np.testing.assert_array_equal(drawn.path, [z, drawn.tokens])
  assert (kept.tokens == 0).all() and kept.entropy < 1e-6
  p = np.array([36, 9, 1]) / 46
  np.testing.assert_allclose(colder.entropy, -(p * np.log(p)).sum(), rtol=1e-5)
  assert np.abs(np.bincount(colder.tokens.reshape(-1)) / 400 - p).max() < 0.12


def test_a_student_is_drawn_by_its_method_whoever_asks():
  config = make_config(method="dimo", student_nfe=1, dimo={"mask_ratio": 0.5})
  config.network.block = 0
  draw, num_steps = models.student_draw(config, DATA)
  assert num_steps(16) == 1
  denoiser = build.make_denoiser(config, DATA, student=True)
  params = make_params(4)[0]
  found = drawing.make_draw(denoiser, 1, 1.0, 1.0, draw)(
    params, jax.random.split(KEY, 6), np.zeros(6, int)
  )
  method = distill.make_method(config, DATA)
  batch = Batch(None, jnp.zeros(1, int))
  predict = lambda z, t, key: denoiser.given(batch).log_mean(params, z, t, key)
  one = jax.jit(lambda key: method.sample(predict, denoiser.process, key, (1, 4), 1).tokens[0])
  np.testing.assert_array_equal(found, [one(key) for key in jax.random.split(KEY, 6)])
  draw, num_steps = models.student_draw(make_config(), DATA)
  assert draw is ancestral_sample and num_steps(16) == 16


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"process.name": "uniform"}, "process.name is 'uniform'"),
    ({"distill.student_nfe": 4}, "distill.student_nfe is 4"),
    ({"distill.from_prior": True}, "distill.from_prior is True"),
    ({"network.block": 4}, "network.block is 4"),
  ],
)
def test_what_does_not_go_together_is_named(changes, message):
  config = digits_dimo.get_config()
  assert not [*dimo.DiMO.problems(config, (8, 8, 1))]
  config.update_from_flattened_dict(changes)
  (problem,) = dimo.DiMO.problems(config, (8, 8, 1))
  assert message in problem and "\n" not in problem


def test_its_config_is_that_of_the_demo_and_checked():
  config = digits_dimo.get_config()
  checks.check(config)
  assert config.distill.dimo.mask_ratio == 0.6
  assert config.teacher == digits_dmmd.get_config().teacher
