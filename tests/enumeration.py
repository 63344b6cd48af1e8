"""Float64 references by brute force: transition matrices and sums over every sequence in K^D."""

import itertools

import jax.numpy as jnp
import numpy as np

from dmmd_jax.diffusion import processes, schedules

SCHEDULES = [schedules.Linear(), schedules.Cosine(), schedules.Polynomial(3.0)]


def make_processes(num_categories, schedule):
  rng = np.random.default_rng(5)
  probs = tuple(rng.dirichlet(np.ones(num_categories)).tolist())
  return [
    processes.Masked(num_categories, schedule),
    processes.Uniform(num_categories, schedule),
    processes.Marginal(num_categories, schedule, probs=probs),
  ]


ALL_PROCESSES = [p for schedule in SCHEDULES for p in make_processes(3, schedule)]


def name(process):
  return f"{type(process).__name__}-{type(process.schedule).__name__}"


def alpha(schedule, t):
  match schedule:
    case schedules.Linear():
      return 1 - t
    case schedules.Cosine():
      return 1 - np.cos(np.pi / 2 * (1 - t))
    case schedules.Polynomial(power):
      return 1 - t**power


def alpha_prime(schedule, t, h=1e-6):
  return (alpha(schedule, t + h) - alpha(schedule, t - h)) / (2 * h)


def stationary(process):
  match process:
    case processes.Masked():
      return np.eye(process.num_states)[-1]
    case processes.Uniform():
      return np.full(process.num_categories, 1 / process.num_categories)
    case processes.Marginal():
      return np.array(process.probs) / np.sum(process.probs)


def transition(process, s, t):
  """`[S, S]`: row z_s, column z_t."""
  ratio = alpha(process.schedule, t) / alpha(process.schedule, s)
  size = process.num_states
  return ratio * np.eye(size) + (1 - ratio) * np.tile(stationary(process), (size, 1))


def posterior(process, z_t, x, s, t):
  """`q(z_s | z_t, x)` `[S]` for a token z_t and clean probabilities x `[K]`."""
  x = np.pad(x, (0, process.num_states - len(x)))
  product = (x @ transition(process, 0.0, s)) * transition(process, s, t)[:, z_t]
  return product / product.sum()


def sequences(num_states, length):
  """Every sequence, int `[num_states ** length, length]`."""
  return np.array(list(itertools.product(range(num_states), repeat=length)))


def likelihood(process, z, x, t):
  """`q(z_t = z | x)` `[len(z), len(x), D]` per position."""
  return transition(process, 0.0, t)[x[None, :, :], z[:, None, :]]


def predictions(process, joint, z, t):
  """Exact `mean` and `leave_one_out` predictions `[len(z), D, K]`; `joint` over sequences(K, D)."""
  length = z.shape[1]
  num_categories = process.num_categories
  x = sequences(num_categories, length)
  per_position = likelihood(process, z, x, t)
  means, left_out = [], []
  for d in range(length):
    others = np.delete(per_position, d, axis=2).prod(-1) * joint
    full = others * per_position[:, :, d]
    at = np.eye(num_categories)[x[:, d]]
    with np.errstate(invalid="ignore"):
      means.append(full @ at / full.sum(1, keepdims=True))
      left_out.append(others @ at / others.sum(1, keepdims=True))
  return np.stack(means, 1), np.stack(left_out, 1)


def rate_bound(process, x, x_hat, i, t):
  """The continuous-time bound of one position, written as in the papers."""
  a, slope = alpha(process.schedule, t), alpha_prime(process.schedule, t)
  pi = stationary(process)
  pad = (0, process.num_states - len(x))
  q, q_hat = (a * np.pad(p, pad) + (1 - a) * pi for p in (x, x_hat))
  total = 0.0
  for j in range(process.num_states):
    if j != i and pi[i] > 0:
      r = -slope / a * pi[i] * q[j] / q[i]
      r_hat = -slope / a * pi[i] * q_hat[j] / q_hat[i]
      total += (r * np.log(r / r_hat) if r > 0 else 0.0) - r + r_hat
  return total


def diffusion_loss(name, process, x, x_hat, i, t):
  """`L_s` of D-MMD at one position where the state is `i`."""
  masked = isinstance(process, processes.Masked)
  if masked and i != process.num_categories:
    return 0.0
  if name == "squared_error":
    return np.square(x - x_hat).sum()
  cross_entropy = -(x * np.log(x_hat)).sum()
  if name == "cross_entropy":
    return cross_entropy
  if masked:
    weight = -alpha_prime(process.schedule, t) / (1 - alpha(process.schedule, t))
    return weight * cross_entropy
  return rate_bound(process, x, x_hat, i, t)


def check_exact_mean(source, joint, process, length, t):
  """`source.log_mean` against enumeration, for data of the law `joint` of all `sequences`."""
  z = sequences(process.num_states, length)
  safe = min(t, 1 - 1e-12)
  mean, _ = predictions(process, joint, z, safe)
  got = np.exp(source.log_mean(process, jnp.asarray(z), jnp.full(len(z), t)))
  x = sequences(process.num_categories, length)
  reachable = likelihood(process, z, x, safe).prod(-1) @ joint > 1e-9
  assert reachable.any()
  np.testing.assert_allclose(got[reachable], mean[reachable], atol=1e-5)
