"""Adaptive gradient clipping (AGC) as an optax transform.

NFNets (Brock, De, Smith, Simonyan, 2021, arXiv 2102.06171), Sec. 4, Eq. 3: the gradient
G_i of each unit i (for a convolution or linear kernel: one output channel) is rescaled
when its norm is large against the norm of the unit's weights W_i,

    G_i <- G_i * lambda * max(||W_i||, eps) / ||G_i||

whenever ||G_i|| > lambda * max(||W_i||, eps).

This file needs jax and optax only, so that it can be used (or copied) on its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

KeyPath = tuple[Any, ...]
UnitAxesFn = Callable[[KeyPath, jax.Array], tuple[int, ...]]

# Guards the division only; a norm this small is never clipped with a sensible eps.
_DIVISION_FLOOR = 1e-6


class AdaptiveGradClipState(NamedTuple):
    """What the last update did.

    Attributes:
      clipped: float32 scalar in [0, 1], the fraction of units that were clipped.
    """

    clipped: jax.Array


def default_unit_axes(path: KeyPath, leaf: jax.Array) -> tuple[int, ...]:
    """Axes that one unit spans, guessed from the shape as optax does.

    Scalars, vectors and whatever squeezes to one (biases, gains, a [1, 1, 1, C]
    kernel) are one unit; [I, O] and [H, I, O] kernels have a unit per index of all axes
    but the first; [H, W, I, O] and [D, H, W, I, O] kernels one per output channel.

    Args:
      path: key path of the leaf, for the error message.
      leaf: parameter or gradient, of any rank.

    Raises:
      ValueError: the leaf has rank 6 or more, for which no convention exists.
    """
    if sum(size != 1 for size in leaf.shape) <= 1:
        return tuple(range(leaf.ndim))
    if leaf.ndim <= 3:
        return (0,)
    if leaf.ndim <= 5:
        return tuple(range(leaf.ndim - 1))
    raise ValueError(
        f"no default unit axes for {jax.tree_util.keystr(path) or 'the array'} with "
        f"shape {leaf.shape}; pass axis= or unit_axes="
    )


def unitwise_norm(x: jax.Array, axes: int | tuple[int, ...]) -> jax.Array:
    """L2 norm of every unit.

    Args:
      x: array of any shape and real dtype.
      axes: the axes that one unit spans; ``()`` makes every element a unit.

    Returns:
      Norms in float32 (float64 for float64 input), with the reduced axes kept as 1.
    """
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=axes, keepdims=True))


def _check_axes(axes: Any, path: KeyPath, leaf: jax.Array) -> tuple[int, ...]:
    """The axes of a leaf as a tuple."""
    found = axes if isinstance(axes, tuple | list) else (axes,)
    if any(axis not in range(-leaf.ndim, leaf.ndim) for axis in found):
        raise ValueError(
            f"the axes of a unit of {jax.tree_util.keystr(path) or 'the array'} with "
            f"shape {leaf.shape} are {axes!r}; expected integers from {-leaf.ndim} to "
            f"{leaf.ndim - 1}"
        )
    return tuple(map(int, found))


class _Clipped(NamedTuple):
    """One leaf's result."""

    grad: jax.Array
    num_clipped: jax.Array
    num_units: int


def _is_clipped(x: Any) -> bool:
    return isinstance(x, _Clipped)


def _clip_leaf(
    grad: jax.Array,
    param: jax.Array,
    axes: tuple[int, ...],
    clipping: float,
    eps: float,
) -> _Clipped:
    unit_norm, unit_param_norm = unitwise_norm(grad, axes), unitwise_norm(param, axes)
    # All arithmetic after the broadcast: this gives optax's very bits, under jit too.
    norm = jnp.broadcast_to(unit_norm, grad.shape)
    max_norm = clipping * jnp.maximum(
        jnp.broadcast_to(unit_param_norm, grad.shape), eps
    )
    scaled = grad * (max_norm / jnp.maximum(norm, _DIVISION_FLOOR))
    clipped = jnp.where(norm < max_norm, grad, scaled.astype(grad.dtype))
    is_clipped = unit_norm >= clipping * jnp.maximum(unit_param_norm, eps)
    num_clipped = jnp.sum(is_clipped, dtype=jnp.float32)
    return _Clipped(clipped, num_clipped, is_clipped.size)


def adaptive_grad_clip(
    clipping: float = 0.01,
    eps: float = 1e-3,
    axis: int | tuple[int, ...] | None = None,
    *,
    unit_axes: UnitAxesFn | None = None,
    mask: Any | Callable[[Any], Any] | None = None,
) -> optax.GradientTransformation:
    """Clips each unit's gradient to at most ``clipping`` times its parameter norm.

    A drop-in for ``optax.adaptive_grad_clip``: on the defaults the clipped gradients
    are the same numbers (to the last bit in float32 on CPU). Beyond it: norms are
    computed in float32 for bfloat16 gradients, the axes may differ by leaf, leaves can
    be left out, and the state tells the fraction of units clipped.

    Put it first in the chain, before momentum and weight decay. The paper leaves the
    final linear layer unclipped (Sec. 4.1); the official code leaves out its weight
    matrix only, and clips its bias.

    Args:
      clipping: lambda, > 0. The paper uses 0.01 at batch 4096 and larger values
        for smaller batches.
      eps: floor of the parameter norm, > 0, so that units that start at zero can move.
      axis: axes of a unit, the same for every leaf; None infers them by shape
        (``default_unit_axes``).
      unit_axes: function of (key path, leaf) that gives the axes of a unit, for trees
        where one rule does not fit all; not together with ``axis``.
      mask: tree of bools (or a prefix of one), or a function from parameters to such a
        tree; False leaves a leaf unclipped. None clips everything.

    Returns:
      A transform whose update needs ``params``. Its state is an
      ``AdaptiveGradClipState``, inside an ``optax.MaskedState`` if a mask is given.

    Raises:
      ValueError: ``clipping`` or ``eps`` is no positive number, both ``axis`` and
        ``unit_axes`` are given, a leaf has no such axes or no default ones (at
        ``init``), or ``update`` is called without parameters.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from nfnets.agc import adaptive_grad_clip
      >>> params = {"dense": {"kernel": jnp.ones((4, 2)), "bias": jnp.zeros(2)}}
      >>> grads = {"dense": {"kernel": jnp.full((4, 2), 0.5), "bias": jnp.ones(2)}}
      >>> tx = optax.chain(adaptive_grad_clip(0.01), optax.sgd(0.1, 0.9, nesterov=True))
      >>> updates, state = tx.update(grads, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> float(state[0].clipped)  # 2 kernel columns and 1 bias vector, all clipped
      1.0
    """
    for name, value in (("clipping", clipping), ("eps", eps)):
        if isinstance(value, int | float):
            is_fine = value > 0
        else:
            is_fine = hasattr(value, "dtype")  # an array, perhaps traced
        if not is_fine:
            raise ValueError(f"{name} must be positive, got {value!r}")
    if axis is not None and unit_axes is not None:
        raise ValueError("pass axis= (one rule for all leaves) or unit_axes=, not both")
    if unit_axes is not None and not callable(unit_axes):
        raise ValueError(
            f"unit_axes must be a function of (path, leaf), got {unit_axes!r}"
        )

    def axes_of(path: KeyPath, leaf: jax.Array) -> tuple[int, ...]:
        rule = unit_axes or default_unit_axes
        return _check_axes(rule(path, leaf) if axis is None else axis, path, leaf)

    def init(params: Any) -> AdaptiveGradClipState:
        jax.tree_util.tree_map_with_path(axes_of, params)  # raises early
        return AdaptiveGradClipState(clipped=jnp.zeros((), jnp.float32))

    def update(
        updates: Any, state: AdaptiveGradClipState, params: Any | None = None
    ) -> tuple[Any, AdaptiveGradClipState]:
        del state
        if params is None:
            raise ValueError(
                "adaptive_grad_clip compares gradients with parameters: call "
                "update(grads, state, params)"
            )

        def clip(path: KeyPath, grad: jax.Array, param: jax.Array) -> _Clipped:
            return _clip_leaf(grad, param, axes_of(path, param), clipping, eps)

        clipped = jax.tree_util.tree_map_with_path(clip, updates, params)
        leaves = jax.tree.leaves(clipped, is_leaf=_is_clipped)
        num_clipped = sum((x.num_clipped for x in leaves), start=jnp.zeros(()))
        num_units = max(1, sum(x.num_units for x in leaves))
        grads = jax.tree.map(lambda x: x.grad, clipped, is_leaf=_is_clipped)
        return grads, AdaptiveGradClipState(num_clipped / num_units)

    transform = optax.GradientTransformation(init, update)
    return transform if mask is None else optax.masked(transform, mask)
