"""D-MMD against enumeration of every `(z_t, x, z_s)`, with three networks that all differ."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.distillation import dmmd, rollout
from dmmd_jax.positions import whole
from tests import enumeration

K, D, S, T = 3, 2, 0.3, 0.7
MASKED = processes.Masked(K, schedules.Cosine())
UNIFORM = processes.Uniform(K)
MARGINAL = processes.Marginal(K, schedules.Polynomial(2.0), probs=(0.5, 0.25, 0.25))
VARIANTS = [
  (MASKED, "posterior", "cross_entropy", "soft"),
  (MASKED, "forward", "cross_entropy", "soft"),
  (MASKED, "forward", "bound", "soft"),
  (MASKED, "posterior", "squared_error", "hard"),
  (UNIFORM, "posterior", "cross_entropy", "hard"),
  (UNIFORM, "forward", "cross_entropy", "hard"),
  (MARGINAL, "posterior", "bound", "hard"),
  (MARGINAL, "forward", "bound", "hard"),
  (MARGINAL, "forward", "squared_error", "hard"),
]


def name(value):
  return value if isinstance(value, str) else type(value).__name__


def prediction(process, loss):
  leave_one_out = loss == "bound" and not isinstance(process, processes.Masked)
  return "leave_one_out" if leave_one_out else "mean"


class Cases:
  """Every `(z_t, x, z_s)` `[n, D]` with its probability `[n]`, for a student's `table` at `z_t`.

  `law` `[num z_t, D, K]` is what `x` is drawn from.
  """

  def __init__(self, process, renoise, meaning, table, data):
    x = enumeration.sequences(K, D)
    z = enumeration.sequences(process.num_states, D)
    start = enumeration.likelihood(process, z, x, T).prod(-1) @ data
    self.law = self._law(process, meaning, table, z)
    law_x = np.prod([self.law[:, d, x[:, d]] for d in range(D)], 0)  # [z_t, x]
    step = np.zeros((process.num_states, K, process.num_states))  # of a token: [z_t, x, z_s]
    for i, c in np.ndindex(step.shape[:2]):
      if renoise == "forward":
        step[i, c] = enumeration.transition(process, 0.0, S)[c]
      elif enumeration.transition(process, 0.0, T)[c, i] > 0:
        step[i, c] = enumeration.posterior(process, i, np.eye(K)[c], S, T)
    steps = np.ones((len(z), len(x), len(z)))
    for d in range(D):
      steps *= step[z[:, d]][:, x[:, d]][:, :, z[:, d]]
    probs = start[:, None, None] * law_x[..., None] * steps
    self.index = np.nonzero(probs)
    self.probs = probs[self.index]
    i, j, k = self.index
    self.z_t, self.x, self.z_s = z[i], x[j], z[k]
    np.testing.assert_allclose(self.probs.sum(), 1.0)

  def _law(self, process, meaning, table, z):
    law = table
    if meaning == "leave_one_out":
      law = law * enumeration.transition(process, 0.0, T)[:K].T[z]
    if isinstance(process, processes.Masked):
      law = np.where((z == K)[..., None], law, np.eye(K + 1)[z][..., :K])
    return law / law.sum(-1, keepdims=True)

  def mean(self, values):
    """Expected value of one number `[n, D]` per case and position, averaged over positions."""
    return (self.probs[:, None] * values).sum() / D


def tables(process, seed):
  rng = np.random.default_rng(seed)
  return rng.dirichlet(np.ones(K), (process.num_states**D, D))


def lookup(process, table):
  """A network that knows its prediction for every sequence."""
  digits = process.num_states ** np.arange(D)[::-1]

  def network(z, t):
    return table[(z * digits).sum(-1)]

  return network


def evaluate(method, cases, logits, log_theta, phi):
  """Expected losses of the code, and gradients: of the first in `logits`, of the other in `phi`.

  `logits` are those of the student's table, `phi` those of the auxiliary model.
  """
  arrays = cases.probs, cases.index[0], cases.z_t, cases.x, cases.z_s
  return jax.tree.map(np.asarray, _evaluate(method, arrays, logits, log_theta, phi))


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(method, arrays, logits, log_theta, phi):
  process, (probs, i, z_t, x, z_s) = method.process, arrays
  z, n = enumeration.sequences(process.num_states, D), len(probs)

  def losses(logits, phi):
    student, log_phi = jax.nn.log_softmax(logits), jax.nn.log_softmax(phi)
    log_p, log_mean = rollout.laws(method, student, jnp.asarray(z), jnp.full(len(z), T))
    r = rollout.Rollout(
      z_t, jnp.full(n, T), whole(log_p)[i], whole(log_mean)[i], x, z_s, jnp.full(n, S)
    )
    networks = dmmd.Networks(
      lookup(process, log_theta), None, lambda phi, z, t: lookup(process, phi)(z, t)
    )
    with pytest.MonkeyPatch.context() as patch:
      # A case's probability takes the place of the weight w(s).
      patch.setitem(dmmd.losses.WEIGHTS, "probability", lambda process, s: probs * n)
      weighted = dataclasses.replace(method, weight="probability")
      return dmmd.dmmd_losses(weighted, networks, log_phi, r)[:2]

  both, pullback = jax.vjp(losses, logits, phi)
  one, zero = jnp.ones_like(both[0]), jnp.zeros_like(both[0])
  return both, (pullback((one, zero))[0], pullback((zero, one))[1])


def materialised(r):
  """A rollout without deferred arrays, which a program cannot return."""
  return r._replace(log_p=whole(r.log_p), log_mean=whole(r.log_mean))


def position_losses(process, loss, targets, x_hat):
  """`L_s` of every `(z_s, d)` and each target: `targets` `[z_s, D, n, K]` to `[z_s, D, n]`."""
  z = enumeration.sequences(process.num_states, D)
  found = np.zeros(targets.shape[:3])
  for i, d, n in np.ndindex(found.shape):
    found[i, d, n] = enumeration.diffusion_loss(
      loss, process, targets[i, d, n], x_hat[i, d], z[i, d], S
    )
  return found


@pytest.mark.parametrize(("process", "renoise", "loss", "target"), VARIANTS, ids=name)
def test_losses_are_expectations_over_all_cases(process, renoise, loss, target):
  """The generator's soft target stands for a sample exactly: for a masked process and for the bound
  given z_t and z_s, otherwise, as in the paper, given z_t."""
  meaning = prediction(process, loss)
  data = np.random.default_rng(0).dirichlet(np.full(K**D, 0.5))
  table, theta, phi = (tables(process, seed) for seed in (1, 2, 3))
  cases = Cases(process, renoise, meaning, table, data)
  hard = np.broadcast_to(np.eye(K), (len(theta), D, K, K))
  of_theta, of_phi = (position_losses(process, loss, hard, x_hat) for x_hat in (theta, phi))
  between = position_losses(process, loss, theta[:, :, None], phi)[..., 0]
  start, _, step = cases.index
  at = (step[:, None], np.arange(D), cases.x)
  expected_auxiliary = cases.mean(of_phi[at] + 0.7 * between[step])
  if isinstance(process, processes.Masked) or loss == "bound":
    expected_generator = cases.mean((of_theta - of_phi)[at])
  else:
    expected_generator = cases.mean((cases.law[start] * (of_theta - of_phi)[step]).sum(-1))
  method = dmmd.Objective(
    process,
    loss=loss,
    auxiliary_target=target,
    teacher_weight=0.7,
    renoise=renoise,
    prediction=meaning,
  )
  with jax.enable_x64(True):
    (generator, auxiliary), _ = evaluate(method, cases, np.log(table), np.log(theta), np.log(phi))
  np.testing.assert_allclose(generator, expected_generator, rtol=1e-8)
  np.testing.assert_allclose(auxiliary, expected_auxiliary, rtol=1e-8)


@pytest.mark.parametrize(("process", "renoise", "loss", "target"), VARIANTS, ids=name)
def test_an_exact_student_is_a_fixed_point(process, renoise, loss, target):
  """The exact predictions at t and at s are different networks: the auxiliary rests at the second
  while the student is the first, and nowhere else; so then does the student."""
  meaning = prediction(process, loss)
  rng = np.random.default_rng(4)
  data = np.kron(rng.dirichlet(np.ones(K)), rng.dirichlet(np.ones(K)))  # a product, as a student
  z = enumeration.sequences(process.num_states, D)
  exact = {}
  for time in (S, T):
    mean, left_out = enumeration.predictions(process, data, z, time)
    exact[time] = left_out if meaning == "leave_one_out" else np.maximum(mean, 1e-30)
  cases = Cases(process, renoise, meaning, exact[T], data)
  # The weight of the first test, so that both have one program.
  method = dmmd.Objective(
    process,
    loss=loss,
    auxiliary_target=target,
    teacher_weight=0.7,
    renoise=renoise,
    prediction=meaning,
  )
  rest = np.log(exact[S])
  other = rest + np.random.default_rng(5).normal(0.0, 0.5, rest.shape)
  with jax.enable_x64(True):
    _, at_rest = evaluate(method, cases, np.log(exact[T]), rest, rest)
    _, elsewhere = evaluate(method, cases, np.log(exact[T]), rest, other)
  assert max(np.abs(g).max() for g in at_rest) < 1e-8
  assert min(np.abs(g).max() for g in elsewhere) > 1e-4


@pytest.mark.parametrize(
  ("process", "renoise", "meaning"),
  [
    (MASKED, "posterior", "mean"),
    (MASKED, "forward", "mean"),
    (MARGINAL, "posterior", "mean"),
    (MARGINAL, "posterior", "leave_one_out"),
    (MARGINAL, "forward", "leave_one_out"),
  ],
  ids=name,
)
def test_a_rollout_of_an_exact_student_has_the_law_of_the_data(process, renoise, meaning):
  """One token: x is distributed as the data, z_s as the data at s, whatever a masked network says
  of tokens that it sees."""
  data, n = np.array([0.5, 0.3, 0.2]), 20_000
  masked = isinstance(process, processes.Masked)

  def student(eta, z, t, key):
    log_x = jnp.broadcast_to(jnp.log(data), (*z.shape, K))
    if masked:
      return jnp.where(process.active(z)[..., None], log_x, jnp.log(jnp.array([0.1, 0.1, 0.8])))
    return log_x if meaning == "leave_one_out" else process.to_mean(log_x, z, t)

  method = dmmd.Objective(process, steps=2, renoise=renoise, prediction=meaning)
  x_data = np.random.default_rng(0).choice(K, size=(n, 1), p=data)
  r = jax.jit(lambda x, key: materialised(rollout.rollout(method, student, None, x, key)))(
    x_data, jax.random.key(0)
  )
  error = 5 * 0.5 / np.sqrt(n)
  if renoise == "forward" or not masked:
    np.testing.assert_allclose(np.bincount(r.x[:, 0]) / n, data, atol=error)
    np.testing.assert_allclose(np.exp(r.log_mean).mean((0, 1)), data, atol=error)
    # Of what is seen x tells as much as the data.
    seen = np.asarray(r.z_t)
    assert abs((r.x == seen).mean() - (x_data == seen).mean()) < 2 * error
  alpha = enumeration.alpha(process.schedule, np.asarray(r.s, np.float64)).mean()
  pad = (0, process.num_states - K)
  expected = alpha * np.pad(data, pad) + (1 - alpha) * enumeration.stationary(process)
  found = np.bincount(r.z_s[:, 0], minlength=process.num_states) / n
  np.testing.assert_allclose(found, expected, atol=error)
  if masked and renoise == "posterior":
    stayed = np.asarray(r.z_t) != K
    assert (np.asarray(r.z_s)[stayed] == np.asarray(r.z_t)[stayed]).all()
