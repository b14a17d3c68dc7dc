"""LAMB (arXiv 1904.00962, Algorithm 2) as timm has it, the optimizer of RSB."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class LambState(NamedTuple):
    """Moments of the gradient, shaped as the parameters, and the updates made."""

    updates: jax.Array  # int32
    mu: Any
    nu: Any


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-6,
    weight_decay: float = 0.0,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Adam's update, times the ratio of the norms of parameter and update.

    u = m_hat / (sqrt(v_hat) + eps), for decayed parameters u + weight_decay * p; these
    alone are scaled to the norm of p, whole tensor by tensor: the others take plain
    Adam steps of the full learning rate (``optax.lamb`` scales every tensor). timm
    divides the gradient by max(1, its norm) first: put
    ``optax.clip_by_global_norm(1.0)`` before.

    Args:
      learning_rate: a number, or a function of the number of updates made before.
      b1: decay of the first moment, [0, 1).
      b2: decay of the second moment, [0, 1).
      eps: added to the root of the second moment.
      weight_decay: coefficient; 0 decays nothing and so scales nothing.
      mask: tree of bools shaped as the parameters, which of them are decayed; None is
        all of them.
    """

    def init(params: Any) -> LambState:
        # Two trees: the step donates its state, and one buffer cannot go twice.
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return LambState(jnp.zeros((), jnp.int32), mu, nu)

    def update(grads: Any, state: LambState, params: Any) -> tuple[Any, LambState]:
        updates = state.updates + 1
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment(grads, state.nu, b2, 2)
        m_hat = optax.tree.bias_correction(mu, b1, updates)
        v_hat = optax.tree.bias_correction(nu, b2, updates)
        lr = learning_rate
        if callable(learning_rate):
            lr = learning_rate(state.updates)

        def step(m: jax.Array, v: jax.Array, p: jax.Array, is_decayed: bool) -> Any:
            u = m / (jnp.sqrt(v) + eps)
            if is_decayed and weight_decay:
                u = u + weight_decay * p
                u = u * _trust_ratio(p, u)
            return -lr * u

        decayed = jax.tree.map(lambda _: True, params) if mask is None else mask
        return jax.tree.map(step, m_hat, v_hat, params, decayed), LambState(
            updates, mu, nu
        )

    return optax.GradientTransformation(init, update)


def _trust_ratio(p: jax.Array, u: jax.Array) -> jax.Array:
    """|p| / |u|, and 1 where either is 0."""
    of_p, of_u = jnp.linalg.norm(p.ravel()), jnp.linalg.norm(u.ravel())
    usable = (of_p > 0) & (of_u > 0)
    return jnp.where(usable, of_p / jnp.where(of_u > 0, of_u, 1.0), 1.0)
