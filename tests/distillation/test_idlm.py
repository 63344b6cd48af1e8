"""IDLM beside NumPy, beside D-MMD for the same draws, and where it rests."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_dmmd_uniform, digits_idlm
from dmmd_jax import config as checks
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes, schedules
from dmmd_jax.distillation import dmmd, idlm, parts, rollout
from tests import enumeration
from tests.distillation import lookups
from tests.distillation import test_dmmd_exact as exact

K = exact.K
KEY = jax.random.key(4)
MARGINAL = processes.Marginal(K, schedules.Cosine(), probs=(0.5, 0.25, 0.25))
each_process = pytest.mark.parametrize("process", [exact.MASKED, MARGINAL], ids=exact.name)


class Spy(lookups.Spy):
  """Of which the one or the other meaning is asked for."""

  def __init__(self, prediction):
    super().__init__()
    self.prediction = prediction

  def log_probs(self, params, z, t, key=None):
    return super().log_mean(params, z, t, key)

  def log_mean(self, params, z, t, key=None):
    assert self.prediction == "mean"
    return self.log_probs(params, z, t, key)


def make_parts(process, from_prior=False, student_nfe=8, **changes):
  masked = isinstance(process, processes.Masked)
  prediction = "mean" if masked else "leave_one_out"
  spy = Spy(prediction)
  p = parts.Parts(
    process, spy, spy, spy, prediction, K, 1, student_nfe, from_prior, 1.0, 1.0, 2.0, None, None
  )
  return dataclasses.replace(p, **changes)


def make_params(process):
  shape = (3, process.num_states, K)
  return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def softmax(logits):
  p = np.exp(np.asarray(logits, np.float64))
  return p / p.sum(-1, keepdims=True)


X = np.random.default_rng(3).integers(0, K, (6, 5))
BATCH = Batch(jnp.asarray(X), None)


def make_losses(method, theta):
  return lambda eta, phi: method.losses(eta, phi, theta, BATCH, KEY)


@each_process
def test_losses_of_a_step_are_those_written_out(process, monkeypatch):
  """The student is asked at z_t of the data; its sample is corrupted anew at an independent time;
  the bound there has the student's probabilities as its labels, and a gradient through them."""
  p = make_parts(process, student_nfe=50)
  x = np.random.default_rng(2).integers(0, K, X.shape)
  monkeypatch.setattr(rollout, "draw", lambda log_p, u: jnp.asarray(x))
  tables = make_params(process)
  (generator, auxiliary), _, gradients = lookups.run(
    make_losses(idlm.IDLM(p), tables[2]), [p.student], *tables[:2]
  )
  (z_t, t, noisy), *others = p.student.asked
  z_s, s, _ = others[0]
  assert noisy and len(others) == 2
  for other in others:
    np.testing.assert_array_equal(other[0], z_s)
    np.testing.assert_array_equal(other[1], s)
    assert not other[2]
  assert (t < s).any() and (t > s + 1 / 50).any()

  def labels(logits):
    y = softmax(logits)[z_t]
    if isinstance(process, processes.Masked):
      return np.where((z_t != K)[..., None], np.eye(K + 1)[z_t][..., :K], y)
    for i, d in np.ndindex(z_t.shape):
      y[i, d] *= enumeration.transition(process, 0.0, float(t[i]))[:, z_t[i, d]]
    return y / y.sum(-1, keepdims=True)

  if isinstance(process, processes.Masked):
    visible = z_t != K
    np.testing.assert_array_equal(z_t[visible], X[visible])
    np.testing.assert_array_equal(z_s[z_s != K], x[z_s != K])

  def mean_bound(labels, logits):
    table, total = softmax(logits), 0.0
    for i, d in np.ndindex(z_s.shape):
      total += enumeration.diffusion_loss(
        "bound", process, labels[i, d], table[z_s[i, d]], z_s[i, d], float(s[i])
      )
    return total / z_s.size

  def of_student(eta):
    return mean_bound(labels(eta), tables[2]) - mean_bound(labels(eta), tables[1])

  def of_auxiliary(phi):
    return mean_bound(labels(tables[0]), phi)

  np.testing.assert_allclose(generator, of_student(tables[0]), rtol=2e-3)
  np.testing.assert_allclose(auxiliary, of_auxiliary(tables[1]), rtol=2e-3)
  (by_eta, none), (nothing, by_phi) = gradients
  assert not none.any() and not nothing.any()
  for written, table, found in (of_student, tables[0], by_eta), (of_auxiliary, tables[1], by_phi):
    expected = differences(written, table)
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-3 * np.abs(expected).max())


def differences(function, logits, step=1e-4):
  """The gradient of a function of logits in float64."""
  logits = np.asarray(logits, np.float64)
  gradient = np.zeros_like(logits)
  for place in np.ndindex(logits.shape):
    change = np.zeros_like(logits)
    change[place] = step
    gradient[place] = (function(logits + change) - function(logits - change)) / (2 * step)
  return gradient


@each_process
def test_dmmd_of_forward_renoising_and_the_bound_is_its_relative(process):
  """From the prior, where D-MMD's t is no longer tied to s, gradients are the same, those of the
  auxiliary model without the teacher."""
  *both, theta = make_params(process)
  p = make_parts(process, from_prior=True)

  def gradients(method):
    return lookups.run(make_losses(method, theta), [p.student], *both)[2]

  settings = dmmd.DMMDSettings("bound", "soft", 0.0, "constant", "forward")
  found, same = gradients(idlm.IDLM(p)), gradients(dmmd.DMMD(p, settings))
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(same), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
  assert np.abs(found[0][0]).max() > 1e-3 and (found[0][1] == 0).all()
  assert (found[1][0] == 0).all() and np.abs(found[1][1]).max() > 1e-3


@each_process
def test_an_exact_student_is_a_fixed_point(process):
  """The auxiliary model rests at what the student's samples say at s, soft labels or not, and the
  student where that is the teacher; the exact predictions at t and s are different networks."""
  method = idlm.IDLM(make_parts(process)).objective
  rng = np.random.default_rng(4)
  data = np.kron(rng.dirichlet(np.ones(K)), rng.dirichlet(np.ones(K)))  # a product, as a student
  z = enumeration.sequences(process.num_states, exact.D)
  predictions = {}
  for time in (exact.S, exact.T):
    mean, left_out = enumeration.predictions(process, data, z, time)
    predictions[time] = left_out if method.prediction == "leave_one_out" else mean
    predictions[time] = np.maximum(predictions[time], 1e-30)
  cases = exact.Cases(process, "forward", method.prediction, predictions[exact.T], data)
  right, student = np.log(predictions[exact.S]), np.log(predictions[exact.T])
  other = right + np.random.default_rng(5).normal(0.0, 0.5, right.shape)
  other -= np.log(np.exp(other).sum(-1, keepdims=True))

  def of_both(log_theta, log_phi):
    _, gradients = exact.evaluate(method, cases, student, log_theta, log_phi)
    return [np.abs(gradient).max() for gradient in gradients]

  with jax.enable_x64(True):
    of_student, of_auxiliary = of_both(right, right)
    assert of_student < 1e-8 and of_auxiliary < 1e-8
    of_student, of_auxiliary = of_both(other, right)
    assert of_student > 1e-4 and of_auxiliary < 1e-8
    of_student, of_auxiliary = of_both(right, other)
    assert of_student > 1e-4 and of_auxiliary > 1e-4


def test_times_of_its_rollout_are_uniform_and_independent():
  c = idlm.IDLM(make_parts(exact.MASKED)).objective
  x = np.zeros((400, 1), int)
  corrupt = jax.vmap(lambda key: rollout.corrupt(c, x, key))
  _, s, t = jax.jit(lambda key: corrupt(jax.random.split(key, 100)))(KEY)
  s, t = (np.asarray(a).reshape(-1) for a in (s, t))
  assert abs(t.mean() - 0.5) < 0.01 and abs((t < 0.1).mean() - 0.1) < 0.01
  assert abs(np.corrcoef(s, t)[0, 1]) < 0.03
  one_batch = np.corrcoef(s[:400], t[:400])[0, 1]
  assert abs(one_batch) < 0.25


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"teacher.loss": "cross_entropy"}, "teacher.loss='bound'"),
    ({"distill.temperature": 0.9}, "distill.temperature and distill.top_p"),
    ({"distill.top_p": 0.9}, "distill.temperature and distill.top_p"),
    ({"distill.teacher": "exact"}, "distill.teacher is 'exact'"),
  ],
)
def test_what_does_not_go_together_is_named(changes, message):
  config = digits_dmmd_uniform.get_config()
  config.teacher.loss = "bound"
  config.distill.update({"method": "idlm", "temperature": 1.0, "top_p": 1.0})
  assert not [*idlm.IDLM.problems(config, (8, 8, 1))]
  config.update_from_flattened_dict(changes)
  (problem,) = idlm.IDLM.problems(config, (8, 8, 1))
  assert message in problem and "\n" not in problem
  config.process.name = "masked"
  assert not [*idlm.IDLM.problems(config, (8, 8, 1))]


def test_its_config_is_checked():
  checks.check(digits_idlm.get_config())
