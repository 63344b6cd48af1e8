"""Expected gradients of Di4C beside those of joint laws."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from dmmd_jax.data.pipeline import Batch
from dmmd_jax.diffusion import processes
from dmmd_jax.distillation.di4c import Di4C
from tests.distillation.test_di4c import make_method
from tests.phases.tables import KEY, tables  # noqa: F401


@dataclasses.dataclass(frozen=True)
class Mixture:
  """A network that knows of its input only the number of the latent and whether `t = 1`."""

  def given(self, batch):
    return self

  def log_mean(self, params, z, t, key=None):
    latent = jnp.arange(len(z)) % params["late"].shape[0]
    late, early = (jnp.asarray(params[name])[latent] for name in ("late", "early"))
    return jax.nn.log_softmax(jnp.where((t == 1.0)[:, None, None], late, early))


def softmax(logits):
  return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


X = np.array(list(itertools.product(range(2), repeat=2)))


def joint(p):
  """Probabilities [4] of all sequences, of a mixture of products [L, 2, 2]."""
  return jnp.stack([(p[:, 0, x[0]] * p[:, 1, x[1]]).mean() for x in X])


@jax.jit
def expected_gradient(late, early, teacher, data_weight):
  """Of data [0, 1] and one step from t = 1 to s = 1/2, in the logits `late`, by enumeration.

  Half of the tokens of a `z_s` are the teacher's; the rest are drawn by a latent in `early`.
  """

  def loss(late):
    q = joint(0.5 * jax.nn.softmax(early) + 0.5 * teacher)
    p = jax.nn.softmax(late)
    marginal = p.mean(0)
    c_data = jnp.log(joint(p)[1]) - jnp.log(marginal[0, 0]) - jnp.log(marginal[1, 1])
    to_teacher = (teacher * jnp.log(teacher / marginal)).sum()
    weight = data_weight * jax.nn.sigmoid(10.0)
    return (to_teacher - weight * c_data - (q * jnp.log(joint(p))).sum()) / 2

  return jax.grad(loss)(late)


def test_the_expected_gradient_is_that_of_joint_laws(monkeypatch):
  """The mean gradient over draws of z_s and x_0, with all networks different. Where the student at
  t = 1 has the joint law of a step it rests, without data and teacher; with the same marginals and
  its latents exchanged at one position it does not."""
  rng = np.random.default_rng(0)
  late = rng.normal(0, 1.5, (2, 2, 2))
  early = np.array([[[2.0, -1.0], [1.0, -1.0]], [[-1.0, 2.0], [-2.0, 1.0]]])
  teacher = softmax(rng.normal(0, 1, (2, 2)))
  rest = np.log(0.5 * softmax(early) + 0.5 * teacher)
  exchanged = rest.copy()
  exchanged[:, 1] = rest[::-1, 1]
  method = make_method({"num_latents": 2, "data_weight": 0.8, "teacher_steps": 1})
  monkeypatch.setattr(Di4C, "_times", lambda self, key, num: jnp.ones(num))
  parts = dataclasses.replace(
    method.parts, process=processes.Masked(2), student=Mixture(), teacher=Mixture()
  )
  method = dataclasses.replace(method, parts=parts)
  theta = {"late": np.log(teacher)[None], "early": np.zeros((1, 2, 2))}
  batch = Batch(jnp.array([[0, 1]]))

  @jax.jit
  def gradients(late, keys):
    def gradient(key):
      def loss(eta):
        return method.loss(eta, theta, batch, key)[0]

      found = jax.grad(loss)({"late": late, "early": early})
      return found["late"], found["early"]

    return jax.vmap(gradient)(keys)

  keys = jax.random.split(KEY, 10_000)
  whole = np.asarray(expected_gradient(late, early, teacher, 0.8))
  for logits in (late, rest, exchanged):
    found, of_target = map(np.asarray, gradients(logits, keys))
    assert not of_target.any()
    error = found.std(0) / np.sqrt(len(keys))
    expected = expected_gradient(logits, early, teacher, 0.8)
    assert (np.abs(found.mean(0) - expected) < 5 * error + 1e-6).all()
    assert np.abs(whole).max() > 15 * error.max()

  @jax.jit
  def to_teacher(late):
    return -(teacher * jnp.log(jax.nn.softmax(late).mean(0))).sum() / 2

  def of_consistency(late):
    of_both = expected_gradient(late, early, teacher, 0.0)
    return np.abs(of_both - jax.grad(to_teacher)(late)).max()

  assert of_consistency(rest) < 1e-6 and of_consistency(exchanged) > 1e-2
