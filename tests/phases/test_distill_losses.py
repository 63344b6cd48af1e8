"""What a setting of `config.distill` does to losses and updates, beside the same written out.

The network is a table, so that everything is quick; the settings that each test would miss if
a method dropped them are the ids of its cases.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dmmd_jax.data.pipeline import Batch, Dataset
from dmmd_jax.diffusion import processes
from dmmd_jax.diffusion.samplers import finish_sample
from dmmd_jax.distillation import dmmd, kernel_score, rollout, sequence_kernel
from dmmd_jax.networks.noise import sample_noise
from dmmd_jax.phases import distill
from dmmd_jax.phases.denoiser import Denoiser
from dmmd_jax.positions import whole
from tests.phases.tables import (  # noqa: F401
  DATA,
  KEY,
  NOISE_DIM,
  B,
  D,
  K,
  Table,
  TableConfig,
  make_config,
  make_params,
  tables,
)

BATCH = Batch(jnp.asarray(DATA.train[:B]), jnp.asarray(DATA.train_labels[:B]))
MASKED, UNIFORM = processes.Masked(K), processes.Uniform(K)


def found_losses(config):
  """Generator's and auxiliary's loss as the method composes them."""
  method = distill.make_method(config, DATA)
  eta, phi, theta = make_params(method.parts.process.num_states)
  if config.distill.method == "kernel_score":
    return np.array([method.loss(eta, theta, BATCH, KEY)[0], jnp.nan])
  return np.array(method.losses(eta, phi, theta, BATCH, KEY)[:2])


@dataclasses.dataclass
class Expected:
  """The same losses, written out for one set of arguments; the defaults are those of `make_config`.

  What is random, and the kernels, come from rollout.rollout, kernel_score and samplers, which have
  tests of their own; what they are given does not come from the config.
  """

  process: processes.Process = MASKED
  steps: int = 2
  loss: str = "cross_entropy"
  soft: bool = True
  teacher_weight: float = 1.0
  weight: Any = staticmethod(lambda s: np.ones_like(s))
  temperature: float = 1.0
  top_p: float = 1.0
  penalty: float = 2.0
  renoise: str = "posterior"
  from_prior: bool = False
  guidance: float = 0.0
  noise_scale: float = 0.7
  prediction: str = "mean"  # of the networks
  method: str = "dmmd"
  dmmd_weight: float = 3.0
  dmmd_noises: str = "all"
  score_stride: int = 1
  num_noises: int = 3
  scales: tuple = ((0, 1, (2.0,)),)
  category_bandwidth: float = 0.0
  samples: int = 0  # steps in which the teacher samples what outputs are compared with
  marginal: bool = False
  pooled: bool = False
  blocks: int = 1

  @property
  def rows(self):
    """The examples that a student with noises sees, one after the other."""
    numbers = [1 if i % self.score_stride else self.num_noises for i in range(B)]
    return np.repeat(np.arange(B), numbers)

  def predict(self, params, z, t, labels=True, key=None):
    rows = np.repeat(np.arange(B), len(z) // B)
    if len(z) == len(self.rows):
      rows = self.rows
    elif len(z) < B:  # the teacher, of what the score is given
      rows = np.arange(0, B, self.score_stride)
    given = {}
    if labels is not None:
      given["labels"] = BATCH.labels[rows] if labels is True else jnp.full(len(z), 2)
    if self.blocks > 1:
      given["context"] = BATCH.tokens[rows]
    if key is not None:
      given["noise"] = self.noise_scale * sample_noise(key, "gaussian", len(z), (D,), NOISE_DIM)
    table = Table(TableConfig(), self.process.num_states, NOISE_DIM if key is not None else 0)
    log_x = jax.nn.log_softmax(table.apply({"params": params}, z, t, **given))
    # The bound takes what the network says itself; everything else E[x | z_t].
    if self.prediction == "leave_one_out" and self.loss != "bound":
      log_x = self.process.to_mean(log_x, z, t)
    return log_x

  def teacher(self, theta, z, t):
    given, without = (self.predict(theta, z, t, labels) for labels in (True, False))
    return jax.nn.log_softmax((1 + self.guidance) * given - self.guidance * without)

  def truncated(self, log_x):
    p = np.exp(np.asarray(log_x, np.float64) / self.temperature)
    p /= p.sum(-1, keepdims=True)
    for row in p.reshape(-1, K):
      mass = 0.0
      for c in np.argsort(-row):
        if mass >= self.top_p:
          row[c] *= np.exp(-self.penalty)
        else:
          mass += row[c]
    return p / p.sum(-1, keepdims=True)

  def losses(self, change=None):
    """Of the student that `make_params` has, or of that with a change of its parameters."""
    eta, phi, theta = make_params(self.process.num_states)
    if change is not None:
      eta = jax.tree.map(jnp.add, eta, change)
    meaning = self.prediction if self.loss == "bound" else "mean"
    method = dmmd.Objective(
      self.process,
      steps=self.steps,
      renoise=self.renoise,
      from_prior=self.from_prior,
      prediction=meaning,
      num_blocks=self.blocks,
      independent_times=self.marginal,
    )

    def student(eta, z, t, key):
      return self.predict(eta, z, t, key=key)

    if self.method == "kernel_score":
      corrupt_key, noise_key, score_key = jax.random.split(KEY, 3)
      start = rollout.corrupt(method, BATCH.tokens, corrupt_key)
      z_t, _, t = (jnp.repeat(a, self.num_noises, 0) for a in start)
      log_mean = student(eta, z_t, t, noise_key)
      return np.array([self.score(theta, log_mean, z_t, t, score_key), np.nan])
    rollout_key, score_key = jax.random.split(KEY)
    if self.method == "dmmd":
      r = rollout.rollout(method, student, eta, BATCH.tokens, rollout_key)
      return np.array(self.dmmd_losses(r, phi, theta))
    noises = rollout.Noises(self.num_noises, self.score_stride)
    r = rollout.rollout(method, student, eta, BATCH.tokens, rollout_key, noises)
    r = rollout.Rollout(*map(whole, r))
    first = np.unique(self.rows, return_index=True)[1]
    given = rollout.Rollout(*(a[first] for a in r)) if self.dmmd_noises == "first" else r
    generator, auxiliary = self.dmmd_losses(given, phi, theta)
    compared = self.rows % self.score_stride == 0
    score = self.score(theta, r.log_mean[compared], r.z_t[compared], r.t[compared], score_key)
    return np.array([self.dmmd_weight * generator + score, auxiliary])

  def dmmd_losses(self, r, phi, theta):
    theta = self.truncated(self.teacher(theta, r.z_s, r.s))
    log_phi = np.asarray(self.predict(phi, r.z_s, r.s), np.float64)
    weight = self.weight(np.asarray(r.s, np.float64))
    weight = weight.reshape(weight.shape + (1,) * (2 - weight.ndim))

    def mean_loss(x, log_x_hat):
      if self.loss == "bound" and self.process != MASKED:
        found = dmmd.losses.bound(self.process, x, jnp.asarray(log_x_hat), r.z_s, r.s)
        return (weight * np.asarray(found)).mean()
      found = -(x * log_x_hat).sum(-1)
      if self.loss == "squared_error":
        found = np.square(x - np.exp(log_x_hat)).sum(-1)
      if self.process == MASKED:
        found = found * np.asarray(r.z_s == K)
      return (weight * found).mean()

    p = np.exp(np.asarray(whole(r.log_p), np.float64))
    target = p if self.soft else np.eye(K)[r.x]
    generator = mean_loss(p, np.log(theta)) - mean_loss(p, log_phi)
    to_teacher = mean_loss(theta, log_phi)
    return generator, mean_loss(target, log_phi) + self.teacher_weight * to_teacher

  def score(self, theta, log_mean, z_t, t, key):
    scales = tuple(sequence_kernel.Scale(*scale) for scale in self.scales)
    method = sequence_kernel.Kernel(self.process, scales, self.category_bandwidth)
    z_t, t = z_t[:: self.num_noises], t[:: self.num_noises]
    x = BATCH.tokens[:: self.score_stride]

    def predict(z, t, key):
      return self.teacher(theta, z, t)

    if self.samples:
      x = finish_sample(
        predict, self.process, key, z_t, t, self.samples, self.temperature, self.top_p
      ).tokens
    log_mean = jnp.stack([log_mean[i :: self.num_noises] for i in range(self.num_noises)])
    rows = len(x) * self.blocks
    log_mean, z_t, x = (
      log_mean.reshape(-1, rows, D // self.blocks, K), z_t.reshape(rows, -1), x.reshape(rows, -1)
    )  # fmt: skip
    if self.marginal:
      return kernel_score.marginal_mmd2(method, log_mean[0], x, z_t, self.blocks)
    log_mean = log_mean.swapaxes(0, 1).reshape(-1, D // self.blocks, K)
    blank = t == 1.0 if self.pooled else None
    return kernel_score.conditional_score(method, log_mean, x, z_t, blank=blank)


# Three noises, where two is what other configs have.
KERNEL = {"method": "dmmd_kernel", "score__num_noises": 3}
SOME = KERNEL | {"dmmd_kernel__dmmd_noises": "first", "dmmd_kernel__score_stride": 2}
ALONE = {"method": "kernel_score", "score__num_noises": 3}
TEACHER = ALONE | {"score__target": "teacher"}
HARD = {"process__name": "uniform", "dmmd__auxiliary_target": "hard"}
CASES = {
  "student_nfe": ({}, {"student_nfe": 5}, {"steps": 5}),
  "squared_error": ({}, {"dmmd__loss": "squared_error"}, {"loss": "squared_error"}),
  "bound": ({}, {"dmmd__loss": "bound"}, {"weight": lambda s: 1 / s}),
  "auxiliary_target": ({}, {"dmmd__auxiliary_target": "hard"}, {"soft": False}),
  "teacher_weight": ({}, {"dmmd__teacher_weight": 0.3}, {"teacher_weight": 0.3}),
  "weight": ({}, {"dmmd__weight": "elbo"}, {"weight": lambda s: 1 / s}),
  "temperature": ({}, {"temperature": 0.6}, {"temperature": 0.6}),
  "top_p": ({}, {"top_p": 0.6}, {"top_p": 0.6}),
  "top_p_penalty": ({"top_p": 0.6}, {"top_p_penalty": 4.0}, {"top_p": 0.6, "penalty": 4.0}),
  "renoise": ({}, {"dmmd__renoise": "forward"}, {"renoise": "forward"}),
  "from_prior": ({}, {"from_prior": True}, {"from_prior": True}),
  "guidance": ({}, {"guidance": 1.5}, {"guidance": 1.5}),
  "noise_scale": ({}, {"noise_scale": 3.0}, {"noise_scale": 3.0}),
  "uniform_process": ({}, HARD, {"process": UNIFORM, "soft": False}),
  "leave_one_out": (
    HARD,
    {"teacher__loss": "bound"},
    {"process": UNIFORM, "soft": False, "prediction": "leave_one_out"},
  ),
  "leave_one_out_bound": (
    HARD,
    {"dmmd__loss": "bound", "teacher__loss": "bound"},
    {"process": UNIFORM, "soft": False, "prediction": "leave_one_out", "loss": "bound"},
  ),
  "dmmd_weight": (KERNEL, {"dmmd_kernel__dmmd_weight": 0.2}, {"dmmd_weight": 0.2}),
  "dmmd_noises": (KERNEL, {"dmmd_kernel__dmmd_noises": "first"}, {"dmmd_noises": "first"}),
  "score_stride": (
    KERNEL | {"dmmd_kernel__dmmd_noises": "first"},
    {"dmmd_kernel__score_stride": 2},
    {"dmmd_noises": "first", "score_stride": 2},
  ),
  "score_stride_and_target": (
    SOME | {"score__target_nfe": 3},
    {"score__target": "teacher"},
    {"dmmd_noises": "first", "score_stride": 2, "samples": 3},
  ),
  "score_stride_and_marginal": (
    SOME,
    {"score__objective": "marginal"},
    {"dmmd_noises": "first", "score_stride": 2, "marginal": True},
  ),
  "score_stride_and_blocks": (
    SOME,
    {"network__block": 2},
    {"dmmd_noises": "first", "score_stride": 2, "blocks": 2},
  ),
  "scales": (KERNEL, {"score__scales": ((2, 2, (1.0, 3.0)),)}, {"scales": ((2, 2, (1.0, 3.0)),)}),
  "category_bandwidth": (KERNEL, {"score__category_bandwidth": 1.5}, {"category_bandwidth": 1.5}),
  "score_and_from_prior": (ALONE, {"from_prior": True}, {"from_prior": True}),
  "score_and_student_nfe": (ALONE, {"student_nfe": 9}, {"steps": 9}),
  "target_as_it_would_be_sampled": (
    ALONE
    | {"temperature": 5.0, "top_p": 0.6, "guidance": 0.5}
    | {"from_prior": True, "score__target_nfe": 3},
    {"score__target": "teacher"},
    {"samples": 3, "temperature": 5.0, "top_p": 0.6, "guidance": 0.5, "from_prior": True},
  ),
  "marginal": (KERNEL, {"score__objective": "marginal"}, {"marginal": True}),
  "pooled": (
    KERNEL | {"from_prior": True},
    {"score__objective": "pooled"},
    {"from_prior": True, "pooled": True},
  ),
  "blocks": (KERNEL, {"network__block": 2}, {"blocks": 2}),
  "blocks_of_the_marginal_objective": (
    KERNEL | {"score__objective": "marginal"},
    {"network__block": 2},
    {"marginal": True, "blocks": 2},
  ),
}  # fmt: skip
# Tables whose prediction means E[x | z_t], also where the process is not the masked one.
MEAN = {"teacher__loss": "cross_entropy"}


@functools.cache
def losses_without(base):
  return found_losses(make_config(**MEAN | dict(base)))


@pytest.mark.parametrize("case", CASES)
def test_losses_depend_on_every_setting_as_written_out(case):
  base, changes, expected = CASES[case]
  found = found_losses(make_config(**MEAN | base | changes))
  without = losses_without(tuple(base.items()))
  assert np.nanmax(np.abs(found - without)) > 1e-3, "the case cannot show the setting"
  expected = {"method": base.get("method", "dmmd")} | expected
  np.testing.assert_allclose(found, Expected(**expected).losses(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("base", [{}, KERNEL, SOME, ALONE], ids=["dmmd", "both", "some", "alone"])
def test_the_students_gradient_is_that_of_differences(base):
  """Of what is written out, in a random direction; all draws stay as they are."""
  config = make_config(**MEAN | base)
  method = distill.make_method(config, DATA)
  eta, phi, theta = make_params(method.parts.process.num_states)
  rng = np.random.default_rng(0)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), eta)

  def loss(eta):
    if config.distill.method == "kernel_score":
      return method.loss(eta, theta, BATCH, KEY)[0]
    return method.losses(eta, phi, theta, BATCH, KEY)[0]

  _, found = jax.jvp(loss, (eta,), (direction,))
  settings = {"dmmd_noises": "first", "score_stride": 2} if base is SOME else {}
  written = Expected(method=base.get("method", "dmmd"), **settings)
  step = 1e-3
  changes = (jax.tree.map(lambda x, by=by: by * x, direction) for by in (step, -step))
  more, less = (written.losses(change)[0] for change in changes)
  assert abs(found) > 1e-2
  np.testing.assert_allclose(found, (more - less) / (2 * step), rtol=1e-2)


@pytest.mark.parametrize("base", [KERNEL, SOME], ids=["both", "some"])
def test_an_auxiliary_model_that_is_updated_alone_learns_as_by_dmmd(base):
  """One noise for each example, whatever the score takes, and nothing for the student to learn."""

  def auxiliary(**changes):
    method = distill.make_method(make_config(**MEAN | changes), DATA)
    eta, phi, theta = make_params(method.parts.process.num_states)
    loss = lambda eta, phi: method.losses(eta, phi, theta, BATCH, KEY, False)[1]
    return jax.value_and_grad(loss, (0, 1))(eta, phi)

  found, expected = auxiliary(**base), auxiliary()
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
  of_student, of_auxiliary = (max(np.abs(x).max() for x in jax.tree.leaves(g)) for g in found[1])
  assert of_student == 0 and of_auxiliary > 1e-3


def test_the_marginal_objective_is_unbiased():
  """Data are fair coins; a student that says 0 before t = 1/2 and 1 after puts 3/8 on 0, and so
  half its squared distance to the data is 1/64. Two times that cover [0, 1] evenly never agree."""
  config = make_config(
    method="kernel_score",
    score__objective="marginal",
    score__scales=((0, 1, (0.5,)),),
    student_nfe=10_000,
    noise="none",
  )
  coins = Dataset(np.array([[0], [1]]), np.array([[0], [1]]), 2)

  class Clean(Denoiser):
    def log_mean(self, params, z, t, key=None):
      return jnp.log(jax.nn.one_hot((t > 0.5).astype(int), 2) + 1e-30)[:, None]

  method = distill.make_method(config, coins)
  student = method.parts.student
  student = Clean(**{f.name: getattr(student, f.name) for f in dataclasses.fields(student)})
  method = dataclasses.replace(method, parts=dataclasses.replace(method.parts, student=student))

  def value(key):
    data_key, key = jax.random.split(key)
    x = jax.random.randint(data_key, (2, 1), 0, 2)
    return method.loss(None, None, Batch(x), key)[0]

  values = np.asarray(jax.jit(jax.vmap(value))(jax.random.split(KEY, 40_000)), np.float64)
  expected = (1 - np.exp(-1 / 0.5)) * 2 / 64
  error = values.std() / np.sqrt(len(values))
  assert error < 0.01 and abs(values.mean() - expected) < 5 * error
