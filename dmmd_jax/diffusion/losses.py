"""Diffusion losses: the variational bounds, cross-entropy, and the draw of training times.

Every loss has the form `loss(process, target, log_x_hat, z_t, t)` and gives nats per position,
float32 shaped like `z_t`. `target` `[B, ..., K]` are probabilities of the clean token (one-hot for
data), `log_x_hat` `[B, ..., K]` the network's log-probabilities. All are zero where the position
does not count, and all can be differentiated in both `target` and `log_x_hat`.
"""

import jax
import jax.numpy as jnp

from dmmd_jax.diffusion.processes import Masked, Process, expand


def sample_times(key: jax.Array, batch_size: int, num_timesteps: int = 0) -> jax.Array:
  """Low-discrepancy times `[B]`: one uniform offset plus `i/B`, modulo 1 (VDM, arXiv 2107.00630).

  With `num_timesteps = T > 0` they are rounded up to the grid `1/T, 2/T, ..., 1`.
  """
  t = (jax.random.uniform(key) + jnp.arange(batch_size) / batch_size) % 1.0
  if not num_timesteps:
    return t
  return jnp.clip(jnp.ceil(t * num_timesteps), 1, num_timesteps) / num_timesteps


def independent_times(key: jax.Array, batch_size: int) -> jax.Array:
  """Independent times `[B]`, for what compares examples of a batch with each other."""
  return jax.random.uniform(key, (batch_size,))


@jax.named_scope("vocabulary")
def cross_entropy(
  process: Process, target: jax.Array, log_x_hat: jax.Array, z_t: jax.Array, t: jax.Array
) -> jax.Array:
  """`CE(target, x_hat)`; its optimum is `E[x | z_t]`."""
  del t
  return jnp.where(process.active(z_t), -(target * log_x_hat).sum(-1), 0.0)


@jax.named_scope("vocabulary")
def squared_error(
  process: Process, target: jax.Array, log_x_hat: jax.Array, z_t: jax.Array, t: jax.Array
) -> jax.Array:
  """`|target - x_hat|^2`; as the loss of D-MMD it gives continuous moment matching
  (arXiv 2406.04103)."""
  del t
  error = jnp.square(target - jnp.exp(log_x_hat)).sum(-1)
  return jnp.where(process.active(z_t), error, 0.0)


@jax.named_scope("vocabulary")
def bound(
  process: Process, target: jax.Array, log_x_hat: jax.Array, z_t: jax.Array, t: jax.Array
) -> jax.Array:
  """The continuous-time bound: its mean over `t ~ U(0, 1)` is the negative ELBO of a position.

  Masked: `-alpha'/(1 - alpha) CE` (MD4, arXiv 2406.04329; MDLM, 2406.07524). Otherwise the
  divergence between the reverse jump rates, which for the uniform process is the bound of UDLM
  (2412.10193) and Duo (2506.10892); `x_hat` is then a `leave_one_out` prediction.
  """
  if isinstance(process, Masked):
    weight = expand(elbo_weight(process, t), z_t)
    return weight * cross_entropy(process, target, log_x_hat, z_t, t)
  log_rates, log_tilt = _reverse_log_rates(process, target, z_t, t)
  _, log_tilt_hat = _reverse_log_rates(process, jnp.exp(log_x_hat), z_t, t)
  # r log(r/r') - r + r' with r' = r exp(d): accurate also where both rates are huge and equal.
  d = log_tilt_hat - log_tilt
  excess = jnp.where(jnp.abs(d) < 1e-2, d**2 * (0.5 + d * (1 / 6 + d / 24)), jnp.expm1(d) - d)
  elsewhere = 1.0 - jax.nn.one_hot(z_t, process.num_states)
  return (elsewhere * jnp.exp(log_rates) * excess).sum(-1)


def _reverse_log_rates(
  process: Process, x: jax.Array, z_t: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Log of the rates `r_j(x) = (-alpha'/alpha) pi_i q_j(x)/q_i(x)` at `i = z_t`, `[B, ..., K]`,
  and the part of it that depends on `x`.

  With `q_j(x) = beta pi_j exp(u_j)`, `u_j = log(1 + alpha x_j / (beta pi_j))`, the rate is
  `(-alpha'/alpha) pi_j exp(u_j - u_i)`: nothing cancels when alpha or beta vanishes.
  """
  schedule, pi = process.schedule, process.stationary()
  # What never occurs has the rate 0, whatever stands for its pi where it would divide.
  log_pi, pi = jnp.log(jnp.maximum(pi, 1e-30)), jnp.where(pi > 0.0, pi, 1.0)
  alpha = schedule.alpha(t)
  ratio = expand(alpha / jnp.maximum(schedule.beta(t), 1e-12), x)
  u = jnp.log1p(ratio * x / pi)
  tilt = u - (u * jax.nn.one_hot(z_t, process.num_states)).sum(-1, keepdims=True)
  speed = -schedule.alpha_prime(t) / jnp.maximum(alpha, 1e-12)
  return jnp.log(jnp.maximum(expand(speed, x), 1e-30)) + log_pi + tilt, tilt


@jax.named_scope("vocabulary")
def discrete_bound(
  process: Process,
  target: jax.Array,
  log_x_hat: jax.Array,
  z_t: jax.Array,
  t: jax.Array,
  num_timesteps: int,
) -> jax.Array:
  """`T KL(q(z_s | z_t, x) || q(z_s | z_t, x_hat))`, `s = t - 1/T`: its mean over the grid of times
  is the negative ELBO of a chain with `T` steps."""
  s = jnp.maximum(t - 1.0 / num_timesteps, 0.0)
  # t - 1/T is not exactly 0 in float32, and the last step must reveal everything.
  s = jnp.where(s < 0.5 / num_timesteps, 0.0, s)
  if isinstance(process, Masked):
    revealed = expand(1.0 - process.stay_probability(s, t), z_t)
    return num_timesteps * revealed * cross_entropy(process, target, log_x_hat, z_t, t)
  # Both posteriors have the step from z_s to z_t in common and differ in the marginals at s and t.
  log_target = jnp.log(jnp.maximum(target, 1e-30))
  at_s, at_t = (
    process.log_marginal(log_target, time) - process.log_marginal(log_x_hat, time)
    for time in (s, t)
  )
  q = process.posterior_probs(z_t, target, s, t)
  p = process.posterior_probs(z_t, jnp.exp(log_x_hat), s, t)
  log_ratio = at_s - (at_t * jax.nn.one_hot(z_t, process.num_states)).sum(-1, keepdims=True)
  log_ratio = jnp.where(q > 0.0, log_ratio, 0.0)
  # q log(q/p) - q + p: of the short steps of a long chain the plain sum leaves three digits.
  terms = jnp.where(q > 0.0, q * (log_ratio + jnp.expm1(-log_ratio)), p)
  return num_timesteps * terms.sum(-1)


def elbo_weight(process: Process, t: jax.Array) -> jax.Array:
  """`-alpha'_t / (1 - alpha_t)` `[B]`, the weight of the masked bound; 0 at `t = 0`."""
  beta = process.schedule.beta(t)
  return jnp.where(beta > 0.0, -process.schedule.alpha_prime(t) / jnp.maximum(beta, 1e-30), 0.0)


def constant_weight(process: Process, t: jax.Array) -> jax.Array:
  """1 for every time, `[B]`."""
  del process
  return jnp.ones_like(t)


WEIGHTS = {"constant": constant_weight, "elbo": elbo_weight}
