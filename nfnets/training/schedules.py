"""Learning-rate and averaging schedules: functions of the step alone."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax


def warmup_constant(peak: float, warmup_steps: float) -> optax.Schedule:
    """Linear warmup from 0 over ``warmup_steps`` (0 for none), then ``peak``."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = peak * step / max(warmup_steps, 1e-9)
        return jnp.where(step < warmup_steps, warmup, peak)

    return schedule


def warmup_cosine(
    peak: float,
    end: float,
    warmup_steps: float,
    total_steps: int,
    *,
    clock_start: float | None = None,
) -> optax.Schedule:
    """Linear warmup from 0, then half a cosine (NFNets, App. A).

    Args:
      peak: learning rate after ``warmup_steps``.
      end: learning rate at ``total_steps``.
      warmup_steps: not rounded, as officially (1563.92 for NFNets); 0 for none.
      total_steps: length of the whole run, warmup included.
      clock_start: step of the cosine's top; None is the end of the warmup. At 0 the
        warmup hides the cosine's beginning, as in EfficientNet's code.

    Returns:
      A function from the step (0-based) to a float32 scalar. Step 0 has rate 0 when
      there is a warmup: the first update only fills the momentum.
    """
    start = warmup_steps if clock_start is None else clock_start

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = peak * step / max(warmup_steps, 1e-9)
        progress = (step - start) / max(total_steps - start, 1e-9)
        progress = jnp.clip(progress, 0.0, 1.0)
        cosine = end + (peak - end) / 2 * (1 + jnp.cos(jnp.pi * progress))
        return jnp.where(step < warmup_steps, warmup, cosine)

    return schedule


def warmup_exponential(
    peak: float,
    decay_rate: float,
    warmup_steps: float,
    decay_steps: float,
    *,
    clock_start: float | None = None,
) -> optax.Schedule:
    """Linear warmup from 0, then a factor ``decay_rate`` after every ``decay_steps``.

    Args:
      peak: learning rate after ``warmup_steps``.
      decay_rate: factor, in (0, 1].
      warmup_steps: not rounded; 0 for none.
      decay_steps: steps per factor, counted from ``clock_start``.
      clock_start: None is the end of the warmup. At 0 the first factors are gone when
        the warmup ends, as in EfficientNet's code.

    Returns:
      A function from the step (0-based) to a float32 scalar.
    """
    start = warmup_steps if clock_start is None else clock_start

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = peak * step / max(warmup_steps, 1e-9)
        power = jnp.floor((step - start) / decay_steps)
        return jnp.where(step < warmup_steps, warmup, peak * decay_rate**power)

    return schedule


def ema_ramp(decay: float, step: jax.typing.ArrayLike) -> jax.Array:
    """Averaging decay of a step: min(decay, (1 + step) / (10 + step)).

    The official code's default. At 0.99999 the cap is reached only after 900,000 steps.

    Args:
      decay: cap, in [0, 1).
      step: number of the update that is averaged in, from 0 or 1 by code.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
