"""Learning-rate and averaging schedules: functions of the step alone."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


def _warmed_up(
    start: float, peak: float, warmup_steps: float, then: optax.Schedule
) -> optax.Schedule:
    """A line from ``start`` to ``peak`` over ``warmup_steps``, then ``then``."""

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        warmup = start + (peak - start) * step / max(warmup_steps, 1e-9)
        return jnp.where(step < warmup_steps, warmup, then(step))

    return schedule


def warmup_constant(
    peak: float, warmup_steps: float, *, start: float = 0.0
) -> optax.Schedule:
    """Linear warmup from ``start`` over ``warmup_steps`` (0: none), then ``peak``."""
    return _warmed_up(start, peak, warmup_steps, lambda step: jnp.asarray(peak))


def warmup_cosine(
    peak: float,
    end: float,
    warmup_steps: float,
    total_steps: int,
    *,
    start: float = 0.0,
    clock_start: float | None = None,
) -> optax.Schedule:
    """Linear warmup, then half a cosine (NFNets, App. A), then ``end``.

    Args:
      peak: learning rate after ``warmup_steps``.
      end: learning rate at ``total_steps``.
      warmup_steps: not rounded, as officially (1563.92 for NFNets); 0 for none.
      total_steps: length of the whole schedule, warmup included.
      start: learning rate at step 0 of the warmup.
      clock_start: step of the cosine's top; None is the end of the warmup. At 0 the
        warmup hides the cosine's beginning, as in EfficientNet's code and in RSB, where
        the peak itself is never used.

    Returns:
      A function from the step (0-based) to a float32 scalar. With ``start`` 0, step 0
      has rate 0 when there is a warmup: the first update only fills the momentum.
    """
    top = warmup_steps if clock_start is None else clock_start

    def cosine(step: jax.Array) -> jax.Array:
        progress = (step - top) / max(total_steps - top, 1e-9)
        progress = jnp.clip(progress, 0.0, 1.0)
        return end + (peak - end) / 2 * (1 + jnp.cos(jnp.pi * progress))

    return _warmed_up(start, peak, warmup_steps, cosine)


def warmup_exponential(
    peak: float,
    decay_rate: float,
    warmup_steps: float,
    decay_steps: float,
    *,
    start: float = 0.0,
    clock_start: float | None = None,
) -> optax.Schedule:
    """Linear warmup, then a factor ``decay_rate`` after every ``decay_steps``.

    Args:
      peak: learning rate after ``warmup_steps``.
      decay_rate: factor, in (0, 1].
      warmup_steps: not rounded; 0 for none.
      decay_steps: steps per factor, counted from ``clock_start``.
      start: learning rate at step 0 of the warmup.
      clock_start: None is the end of the warmup. At 0 the first factors are gone when
        the warmup ends, as in EfficientNet's code.

    Returns:
      A function from the step (0-based) to a float32 scalar.
    """
    first = warmup_steps if clock_start is None else clock_start

    def exponential(step: jax.Array) -> jax.Array:
        return peak * decay_rate ** jnp.floor((step - first) / decay_steps)

    return _warmed_up(start, peak, warmup_steps, exponential)


def warmup_step(
    peak: float,
    decay_rate: float,
    warmup_steps: float,
    milestones: Sequence[float],
    *,
    start: float = 0.0,
    clock_start: float | None = None,
) -> optax.Schedule:
    """Linear warmup, then a factor ``decay_rate`` from each milestone on (1512.03385).

    Args:
      peak: learning rate after ``warmup_steps``.
      decay_rate: factor, in (0, 1].
      warmup_steps: not rounded; 0 for none.
      milestones: steps, counted from ``clock_start``, in any order.
      start: learning rate at step 0 of the warmup.
      clock_start: None is the end of the warmup.

    Returns:
      A function from the step (0-based) to a float32 scalar.
    """
    first = warmup_steps if clock_start is None else clock_start

    def staircase(step: jax.Array) -> jax.Array:
        passed = sum(jnp.where(step - first >= m, 1.0, 0.0) for m in milestones)
        return peak * decay_rate ** jnp.asarray(passed, jnp.float32)

    return _warmed_up(start, peak, warmup_steps, staircase)


def by_epoch(schedule: optax.Schedule, steps_per_epoch: int) -> optax.Schedule:
    """The schedule's value at the first step of each epoch, throughout it (timm)."""

    def constant_through_epoch(step: jax.typing.ArrayLike) -> jax.Array:
        epoch = jnp.asarray(step, jnp.int32) // steps_per_epoch
        return jnp.asarray(schedule(epoch * steps_per_epoch))

    return constant_through_epoch


def ema_ramp(decay: float, step: jax.typing.ArrayLike) -> jax.Array:
    """Averaging decay of a step: min(decay, (1 + step) / (10 + step)).

    The official code's default. At 0.99999 the cap is reached only after 900,000 steps.

    Args:
      decay: cap, in [0, 1).
      step: number of the update that is averaged in, from 0 or 1 by code.
    """
    step = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1 + step) / (10 + step))
