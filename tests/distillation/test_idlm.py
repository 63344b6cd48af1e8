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
from tests.distillation import test_dmmd_exact as exact

K = exact.K
KEY = jax.random.key(4)
UNIFORM = processes.Uniform(K, schedules.Cosine())
MARGINAL = processes.Marginal(K, probs=(0.5, 0.25, 0.25))
each_process = pytest.mark.parametrize("process", [exact.MASKED, UNIFORM, MARGINAL], ids=exact.name)


class Spy:
  """A network whose logits are a table of its tokens; keeps what it is asked for."""

  def __init__(self, process, prediction):
    self.process, self.prediction, self.asked = process, prediction, []

  def given(self, batch):
    return self

  def log_probs(self, params, z, t, key=None):
    self.asked.append((z, t, key is not None))
    return jax.nn.log_softmax(params[z])

  def log_mean(self, params, z, t, key=None):
    assert self.prediction == "mean"
    return self.log_probs(params, z, t, key)


def make_parts(process, from_prior=False, student_nfe=8, **changes):
  masked = isinstance(process, processes.Masked)
  prediction = "mean" if masked else "leave_one_out"
  spy = Spy(process, prediction)
  p = parts.Parts(
    process, spy, spy, spy, prediction, K, 1, student_nfe, from_prior, 1.0, 1.0, 2.0, None
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


@each_process
def test_losses_of_a_step_are_those_written_out(process, monkeypatch):
  """The student is asked at z_t of the data; its sample is corrupted anew at an independent time;
  the bound there has the student's probabilities as its labels, and a gradient through them."""
  p = make_parts(process, student_nfe=50)
  x = np.random.default_rng(2).integers(0, K, X.shape)
  monkeypatch.setattr(rollout, "draw", lambda log_p, u: jnp.asarray(x))
  tables = make_params(process)
  method = idlm.IDLM(p)
  generator, auxiliary, _ = method.losses(*map(jnp.asarray, tables), BATCH, KEY)
  (z_t, t, noisy), *others = ((*map(np.asarray, a[:2]), a[2]) for a in p.student.asked)
  z_s, s, _ = others[0]
  assert noisy and len(others) == 2
  for other in others:
    np.testing.assert_array_equal(other[0], z_s)
    np.testing.assert_array_equal(other[1], s)
    assert not other[2]
  assert (t < s).any() and (t > s + 1 / 50).any()

  eta, phi, theta = softmax(tables)
  y = eta[z_t]
  if isinstance(process, processes.Masked):
    visible = z_t != K
    np.testing.assert_array_equal(z_t[visible], X[visible])
    y = np.where(visible[..., None], np.eye(K + 1)[z_t][..., :K], y)
    np.testing.assert_array_equal(z_s[z_s != K], x[z_s != K])
  else:
    for i, d in np.ndindex(z_t.shape):
      y[i, d] *= enumeration.transition(process, 0.0, float(t[i]))[:, z_t[i, d]]
    y /= y.sum(-1, keepdims=True)

  def mean_bound(labels, table):
    total = 0.0
    for i, d in np.ndindex(z_s.shape):
      total += enumeration.diffusion_loss(
        "bound", process, labels[i, d], table[z_s[i, d]], z_s[i, d], float(s[i])
      )
    return total / z_s.size

  expected = mean_bound(y, theta) - mean_bound(y, phi)
  np.testing.assert_allclose(generator, expected, rtol=2e-3)
  np.testing.assert_allclose(auxiliary, mean_bound(y, phi), rtol=2e-3)


def gradients(method, tables):
  """Of the student's loss and the auxiliary model's, in both models' parameters."""

  def loss(which, eta, phi):
    return method.losses(eta, phi, jnp.asarray(tables[2]), BATCH, KEY)[which]

  arguments = [jnp.asarray(a) for a in tables[:2]]
  return [jax.grad(lambda *a, i=i: loss(i, *a), (0, 1))(*arguments) for i in (0, 1)]


@each_process
def test_dmmd_of_forward_renoising_and_the_bound_is_its_relative(process):
  """From the prior, where D-MMD's t is no longer tied to s, the student's gradient is the same, and
  the auxiliary model's is that without the teacher; elsewhere t differs, and so does the rest."""
  tables = make_params(process)

  def of_dmmd(teacher_weight, p):
    settings = dmmd.DMMDSettings("bound", "soft", teacher_weight, "constant", "forward")
    return gradients(dmmd.DMMD(p, settings), tables)

  p = make_parts(process, from_prior=True)
  found, same, held = gradients(idlm.IDLM(p), tables), of_dmmd(0.0, p), of_dmmd(1.0, p)
  for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(same), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
  assert np.abs(found[0][0]).max() > 1e-3 and (found[0][1] == 0).all()
  assert (found[1][0] == 0).all() and np.abs(found[1][1]).max() > 1e-3
  np.testing.assert_allclose(held[0][0], found[0][0], rtol=1e-5, atol=1e-7)
  assert np.abs(held[1][1] - found[1][1]).max() > 1e-3
  p = make_parts(process, student_nfe=50)
  found, near = gradients(idlm.IDLM(p), tables), of_dmmd(0.0, p)
  assert np.abs(found[0][0] - near[0][0]).max() > 1e-4


@each_process
def test_an_exact_student_is_a_fixed_point(process, monkeypatch):
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
  right = np.log(predictions[exact.S])

  def of_both(log_theta, log_phi):
    def loss(table, log_phi, which):
      log_phi = jax.nn.log_softmax(log_phi)
      return exact.losses(method, cases, table, log_theta, log_phi, monkeypatch)[which]

    table = jnp.asarray(predictions[exact.T])
    of_auxiliary = jax.grad(loss, 1)(table, jnp.asarray(log_phi), 1)
    of_student = jax.grad(lambda logits: loss(jax.nn.softmax(logits), log_phi, 0))(jnp.log(table))
    return np.abs(of_student).max(), np.abs(of_auxiliary).max()

  shift = np.random.default_rng(5).normal(0.0, 0.5, right.shape)
  other = np.asarray(jax.nn.log_softmax(right + shift))
  with jax.enable_x64(True):
    student, auxiliary = of_both(right, right)
    assert student < 1e-8 and auxiliary < 1e-8
    student, auxiliary = of_both(other, right)
    assert student > 1e-4 and auxiliary < 1e-8
    student, auxiliary = of_both(right, other)
    assert student > 1e-4 and auxiliary > 1e-4


def test_times_of_its_rollout_are_uniform_and_independent():
  c = idlm.IDLM(make_parts(exact.MASKED)).objective
  x = jnp.zeros((400, 1), int)
  _, s, t = jax.vmap(lambda key: rollout.corrupt(c, x, key))(jax.random.split(KEY, 100))
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
