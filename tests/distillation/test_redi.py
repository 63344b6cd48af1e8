"""ReDi: the joint law of couples beside enumeration, the loss written out, rounds."""

import dataclasses
import itertools

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from configs import cifar_dmmd, digits_redi
from dmmd_jax import config as checks
from dmmd_jax import parallel
from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import losses, processes, schedules
from dmmd_jax.distillation import redi
from dmmd_jax.networks.noise import sample_noise
from dmmd_jax.phases import distill
from tests import enumeration
from tests.phases.tables import (  # noqa: F401
  DATA,
  KEY,
  B,
  K,
  Table,
  TableConfig,
  make_config,
  make_params,
  tables,
)

DIM = 3


def make_method(settings, **changes):
  changes = {"process__name": "masked"} | changes
  noise = "gaussian" if changes["process__name"] == "masked" else "none"
  config = make_config(method="redi", **{"noise": noise, "noise_dim": DIM} | changes)
  config.distill.redi = {"num_pairs": 12, "nfe": 2, "chunk": 6} | settings
  return distill.make_method(config, DATA)


def make_theta(method):
  return make_params(method.parts.process.num_states)[2]


@dataclasses.dataclass(frozen=True)
class Small:
  """A network of two tokens in two categories: a table `[states^2, 2, 2]` of the input."""

  shape = (2,)
  num_classes = 0

  def given(self, batch):
    return self

  def log_mean(self, params, z, t, key=None):
    num_states = 3 if len(params) == 9 else 2
    log_x = params[num_states * z[:, 0] + z[:, 1]]
    return jax.nn.log_softmax(log_x * (1.0 + t[:, None, None]))

  def noise(self, keys, z):
    return sample_noise(keys, "gaussian", len(z), z.shape[1:], DIM)


def ancestral_law(process, table, nfe):
  """`P(x_0 | x_T)` `[states^2, 4]` of sampling in `nfe` steps, in float64."""
  z = enumeration.sequences(process.num_states, 2)
  law = np.eye(len(z))
  for i in range(nfe):
    t, s = (min((nfe - j) / nfe, 1 - 1e-9) for j in (i, i + 1))
    logits = table * (1 + (nfe - i) / nfe)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    step = np.ones((len(z), len(z)))
    for a, b, d in itertools.product(range(len(z)), range(len(z)), range(2)):
      if process.num_states == 3 and z[a, d] < 2:
        step[a, b] *= z[a, d] == z[b, d]
        continue
      step[a, b] *= sum(
        p[a, d, x] * enumeration.posterior(process, z[a, d], np.eye(2)[x], s, t)[z[b, d]]
        for x in range(2)
        if enumeration.transition(process, 0.0, t)[x, z[a, d]] > 0
      )
    law = law @ step
  np.testing.assert_allclose(law.sum(-1), 1.0)
  return law[:, (z < 2).all(-1)]


PROCESSES = {
  "masked": processes.Masked(2, schedules.Cosine()),
  "uniform": processes.Uniform(2),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_couples_have_the_joint_law_of_noise_and_ancestral_samples(name):
  process, num = PROCESSES[name], 60_000
  states = process.num_states**2
  table = np.random.default_rng(1).normal(0, 1.5, (states, 2, 2))
  if name == "uniform":  # tokens that often stay, so that noise and sample tell of each other
    table += 3 * np.eye(2)[enumeration.sequences(2, 2)]
  method = make_method({"num_pairs": num, "nfe": 3, "chunk": 20_000}, process__name=name)
  parts = dataclasses.replace(
    method.parts, process=process, student=Small(), teacher=Small(), auxiliary=Small()
  )
  method = dataclasses.replace(method, parts=parts)
  draw = jax.jit(lambda key: method.draw_couples(jnp.asarray(table, jnp.float32), key, False))
  couples = jax.tree.map(np.asarray, draw(KEY))
  law = ancestral_law(process, table, 3)
  x_0 = 2 * couples.tokens[:, 0] + couples.tokens[:, 1]
  if name == "uniform":
    x_1 = 2 * couples.prior[:, 0] + couples.prior[:, 1]
    found = np.histogram2d(x_1, x_0, bins=[np.arange(5) - 0.5] * 2)[0] / num
    expected = law / 4
  else:
    assert couples.prior is None and len(np.unique(couples.seeds)) > num - 10
    found, expected = np.bincount(x_0, minlength=4) / num, law[-1]
  error = np.sqrt(expected * (1 - expected) / num)
  assert (np.abs(found - expected) < 5 * error).all()
  if name == "uniform":  # and would not, were they independent
    assert np.abs(expected - expected.mean(0)).max() > 10 * error.max()


def test_masked_couples_are_a_function_of_the_students_noise():
  """Token after token as the noise says, in Python; and what a token is depends on when it is
  revealed, which is told apart from what it is."""
  method = make_method({"num_pairs": 12, "nfe": 3})
  theta = make_theta(method)
  couples = jax.jit(lambda key: method.draw_couples(theta, key, False))(KEY)
  assert len(np.unique(couples.seeds)) == 12  # no chunk is like another
  network = method.parts.teacher
  changed = 0
  for row, seed in enumerate(np.asarray(couples.seeds)):
    noise = np.asarray(sample_noise(jax.random.key(seed), "gaussian", 1, (4,), DIM))[0]
    u = scipy.stats.norm.cdf(noise.astype(np.float64))
    given = network.given(jax.tree.map(lambda x, row=row: x[row : row + 1], couples))
    z = np.full(4, K)
    for i in range(3):
      log_x = given.log_mean(theta, jnp.asarray(z)[None], jnp.array([1 - i / 3]))
      p = np.exp(np.asarray(log_x.function(*log_x.arguments), np.float64))[0]
      for d in range(4):
        if z[d] == K and u[d, 0] >= 1 - (i + 1) / 3:
          z[d] = np.searchsorted(np.cumsum(p[d]), u[d, 2] * p[d].sum(), side="right")
          changed += i > 0
    np.testing.assert_array_equal(couples.tokens[row], z)
  assert changed > 5


LOSSES = {
  "masked": ({}, True),
  "masked_cross_entropy": ({"redi": "cross_entropy"}, False),
  "uniform": ({"process__name": "uniform", "teacher__loss": "bound"}, True),
  "uniform_cross_entropy": (
    {"process__name": "uniform", "teacher__loss": "bound", "redi": "cross_entropy"},
    False,
  ),
  "from_prior": ({"redi": "cross_entropy", "from_prior": True}, False),
}


def couples_of(case, rng):
  """A method, a student's parameters, and couples of the data of one batch."""
  changes = dict(LOSSES[case][0])
  method = make_method({"loss": changes.pop("redi", "bound")}, **changes)
  process = method.parts.process
  masked = isinstance(process, processes.Masked)
  prior = None if masked else jnp.asarray(rng.integers(0, K, (B, 4)))
  seeds = jnp.arange(40, 40 + B, dtype=jnp.uint32) if masked else None
  eta, _, _ = make_params(process.num_states)
  if masked:
    eta = {**eta, "noise": jnp.asarray(rng.normal(size=(DIM, K)), jnp.float32)}
  labels = jnp.asarray(DATA.train_labels[:B])
  return method, eta, redi.Couples(jnp.asarray(DATA.train[:B]), labels, prior, seeds)


@pytest.mark.parametrize("case", LOSSES)
def test_the_loss_is_that_of_couples_written_out(case):
  """Noise tokens are the couple's own, and its student's noise that of its seed."""
  bound = LOSSES[case][1]
  method, eta, couples = couples_of(case, np.random.default_rng(2))
  process, masked = method.parts.process, couples.prior is None
  x, labels, prior, seeds = DATA.train[:B], couples.labels, couples.prior, couples.seeds
  found, metrics = method.loss(eta, None, couples, KEY)

  time_key, keep_key = jax.random.split(KEY)
  t = jnp.ones(B) if case == "from_prior" else losses.sample_times(time_key, B)
  kept = np.asarray(jax.random.uniform(keep_key, (B, 4))) < 1 - np.asarray(t)[:, None]
  assert kept.any() != (case == "from_prior") and not kept.all()
  z_t = np.where(kept, x, K if masked else prior)
  given = {"labels": labels}
  if masked:
    rows = [sample_noise(jax.random.key(s), "gaussian", 1, (4,), DIM)[0] for s in seeds]
    given["noise"] = 0.7 * jnp.stack(rows)
  table = Table(TableConfig(), process.num_states, DIM if masked else 0)
  log_x = jax.nn.log_softmax(table.apply({"params": eta}, jnp.asarray(z_t), t, **given))
  if not masked and not bound:
    log_x = process.to_mean(log_x, jnp.asarray(z_t), t)
  p, total = np.exp(np.asarray(log_x, np.float64)), 0.0
  name = "bound" if bound else "cross_entropy"
  for b, d in np.ndindex(B, 4):
    total += enumeration.diffusion_loss(
      name, process, np.eye(K)[x[b, d]], p[b, d], z_t[b, d], float(t[b])
    )
  np.testing.assert_allclose(found, total / (B * 4), rtol=1e-3)
  # The same couple has the same noise at every time.
  again = method.loss(eta, None, couples, KEY)[0]
  assert again == found and np.isfinite(metrics["entropy"])


@pytest.mark.parametrize("case", LOSSES)
def test_the_gradient_is_that_of_differences(case):
  """In all parameters at once, along a direction of their own."""
  rng = np.random.default_rng(4)
  method, eta, couples = couples_of(case, rng)
  direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), eta)
  loss = jax.jit(lambda eta: method.loss(eta, None, couples, KEY)[0])
  moved = lambda by: jax.tree.map(lambda a, d: a + by * d, eta, direction)
  expected = (loss(moved(0.01)) - loss(moved(-0.01))) / 0.02
  found = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(loss)(eta), direction)))
  np.testing.assert_allclose(found, expected, rtol=5e-3)
  assert abs(expected) > 0.05


def expected_gradient(predict, couples, t):
  """Of the cross-entropy at time `t`, in the logits of `predict` `[4, 2, 2]` at every `z_t`, over
  all couples of two tokens and all choices of which are kept: float64, written out."""
  gradient = np.zeros_like(predict)
  for x, x_1 in couples:
    for kept in itertools.product((True, False), repeat=2):
      z = np.where(kept, x, x_1)
      chance = np.prod(np.where(kept, 1 - t, t)) / len(couples)
      gradient[2 * z[0] + z[1]] += chance * (predict[2 * z[0] + z[1]] - np.eye(2)[x]) / 2
  return gradient


def test_the_student_of_cross_entropy_rests_at_what_couples_say_of_a_state(monkeypatch):
  """Uniform: `E[x_0 | z_t]` over couples, by Bayes' rule; with couples of other noise it moves."""
  t, rng = 0.6, np.random.default_rng(5)
  pairs = rng.integers(0, 2, (20, 2, 2))
  others = np.stack([pairs[:, 0], pairs[::-1, 1]], 1)
  weights = np.zeros((4, 2, 2))
  for x, x_1 in pairs:
    for a, b in itertools.product(range(2), repeat=2):
      z = np.array([a, b])
      chance = np.prod((1 - t) * (x == z) + t * (x_1 == z))
      weights[2 * a + b] += chance * np.eye(2)[x]
  rest = weights / weights.sum(-1, keepdims=True)
  assert np.abs(expected_gradient(rest, pairs, t)).max() < 1e-12
  assert np.abs(expected_gradient(rest, others, t)).max() > 1e-2

  monkeypatch.setattr(losses, "sample_times", lambda key, num: jnp.full(num, t))
  method = make_method(
    {"loss": "cross_entropy"}, process__name="uniform", teacher__loss="cross_entropy"
  )
  parts = dataclasses.replace(method.parts, process=PROCESSES["uniform"], student=Small())
  method = dataclasses.replace(method, parts=parts)

  @jax.jit
  def gradients(table, x, x_1, keys):
    def loss(table, key):
      return method.loss(table, None, redi.Couples(x, None, x_1, None), key)[0]

    return jax.vmap(jax.grad(loss), (None, 0))(table, keys)

  # `Small` multiplies its logits by 1 + t.
  table = jnp.asarray(np.log(rest) / (1 + t), jnp.float32)
  keys = jax.random.split(KEY, 4000)
  for couples in (pairs, others):
    found = np.asarray(gradients(table, couples[:, 0], couples[:, 1], keys))
    expected = (1 + t) * expected_gradient(rest, couples, t)
    error = found.std(0) / np.sqrt(len(keys))
    assert (np.abs(found.mean(0) - expected) < 5 * error + 1e-6).all()
    assert np.abs(expected_gradient(rest, others, t)).max() > 15 * error.max()


def test_a_sample_keeps_its_noise_through_all_steps():
  seen = []

  def predict(z, t, key):
    jax.debug.callback(lambda k: seen.append(int(k)), jax.random.key_data(key)[-1])
    return jnp.log(jnp.full((*z.shape, 2), 0.5))

  drawn = redi.ReDi.sample(predict, processes.Masked(2), KEY, (50, 4), 3)
  jax.effects_barrier()
  assert len(seen) == 3 and len(set(seen)) == 1
  assert set(np.unique(drawn.tokens)) == {0, 1}


@pytest.mark.parametrize("process", ["masked", "uniform"])
def test_rounds_draw_couples_of_the_average_and_can_be_resumed(process):
  """Five steps in two rounds: couples are drawn again before the third, with the average then."""
  fast = {"student_optimizer__learning_rate": 0.5, "student_optimizer__warmup_steps": 0}
  of_process = {"process__name": process, "teacher__loss": "bound"}
  method = make_method({"rounds": 2}, num_steps=5, ema=0.5, **fast, **of_process)
  theta = make_theta(method)
  state = nn.unbox(jax.jit(method.init)(jax.random.key(2), theta))
  assert state.teacher is None
  batch = Batch(jnp.asarray(DATA.train[:B]), jnp.asarray(DATA.train_labels[:B]))
  step = jax.jit(method.step)
  states = [state]
  for i in range(5):
    if i in (1, 4):  # in the middle of both rounds
      saved = flax.serialization.to_bytes(state)
      state = flax.serialization.from_bytes(jax.tree.map(jnp.zeros_like, state), saved)
    state, metrics = step(state, batch, jax.random.fold_in(KEY, i))
    assert all(np.isfinite(v) for v in metrics.values())
    states.append(state)
  whole = states[0]
  for i, after in enumerate(states[1:]):
    whole, _ = step(whole, batch, jax.random.fold_in(KEY, i))
    jax.tree.map(np.testing.assert_array_equal, whole, after)
    changed = (after.couples.tokens != states[i].couples.tokens).any()
    assert changed == (i == 2)
  couples_key = jax.random.split(jax.random.fold_in(KEY, 2), 3)[0]
  draw = jax.jit(lambda params: method.draw_couples(params, couples_key, by_student=True))
  jax.tree.map(np.testing.assert_array_equal, draw(states[2].ema), states[3].couples)
  others = draw(states[2].student.params), draw(states[0].ema)
  assert all((x.tokens != states[3].couples.tokens).any() for x in others)


def test_devices_share_the_couples():
  method = make_method({"num_pairs": 32, "chunk": 16})
  theta = make_theta(method)
  abstract = jax.eval_shape(method.init, KEY, theta)
  shardings = parallel.state_shardings(parallel.make_mesh(), abstract)
  for sharding in jax.tree.leaves(shardings.couples):
    assert sharding.spec[0] == ("data", "fsdp")
  state = jax.jit(lambda *a: nn.unbox(method.init(*a)), out_shardings=shardings)(KEY, theta)
  assert state.couples.tokens.shape == (32, 4) and set(np.unique(state.couples.labels)) == {0, 1}


def test_a_network_that_has_no_blocks_is_taken():
  config = cifar_dmmd.get_config()
  config.distill.update(
    {"method": "redi", "noise_dim": 9, "redi": digits_redi.get_config().distill.redi}
  )
  checks.check(config)


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    ({"distill.noise": "none"}, "use 'gaussian' or 'pyramid'"),
    ({"distill.noise": "latent"}, "for redi set it to 'gaussian' or 'pyramid' or 'none'"),
    ({"distill.noise_dim": 2}, "expected at least 3"),
    ({"distill.redi.chunk": 300}, "a divisor of"),
    ({"distill.redi.rounds": 9, "distill.num_steps": 8}, "one step for each"),
    ({"process.name": "uniform"}, "use 'none'"),
    ({"process.name": "uniform", "distill.noise": "gaussian"}, "use 'none'"),
    (
      {"process.name": "uniform", "distill.noise": "none", "teacher.loss": "cross_entropy"},
      "trained with cross-entropy",
    ),
    (
      {
        "process.name": "uniform",
        "distill.noise": "none",
        "distill.from_prior": True,
        "distill.student_nfe": 1,
      },
      "the bound of the uniform process is 0",
    ),
    (
      {"process.schedule": "cosine", "distill.from_prior": True, "distill.student_nfe": 1},
      "the bound of the cosine schedule is 0",
    ),
  ],
)
def test_what_does_not_go_together_is_refused(changes, said):
  config = digits_redi.get_config()
  config.distill.redi.update({"chunk": 500, "rounds": 1})
  checks.check(config)
  config.update_from_flattened_dict(changes)
  with pytest.raises(checks.ConfigError, match=said):
    checks.check(config)


def test_prompts_are_refused():
  config = digits_redi.get_config()
  checks.check(config)
  config.dataset.name = "chats"
  assert any("have no prompts" in said for said in redi.ReDi.problems(config, (8,)))
