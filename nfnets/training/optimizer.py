"""The optimizer chains of the official codes, assembled from optax transforms.

Order matters: clip the raw gradient, unit by unit and then as a whole, then add the
weight decay. NFNet's ``sgd`` then has the momentum, and multiplies by the learning rate
last, so that it is not accumulated; TensorFlow 1's ``rmsprop``, EfficientNet's,
accumulates the product. ``adamw`` and ``lamb`` have a decay of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets.agc import adaptive_grad_clip, default_unit_axes
from nfnets.errors import UserError
from nfnets.training.lamb import lamb
from nfnets.training.layer_decay import layer_factors
from nfnets.training.parameter_paths import param_mask
from nfnets.training.recipe import Recipe
from nfnets.training.recipe_parts import OptimConfig
from nfnets.training.rmsprop import rmsprop_tf
from nfnets.training.schedules import (
    by_epoch,
    warmup_constant,
    warmup_cosine,
    warmup_exponential,
    warmup_step,
)

# (decayed, clipped) -> the official code's name of that parameter group.
GROUP_NAMES = {
    (True, True): "weights",
    (False, True): "gains_biases",
    (True, False): "fc_weights",
    (False, False): "fc_biases",
}
CLIPPED_GROUPS = [name for (_, clipped), name in GROUP_NAMES.items() if clipped]
TRAINED, FROZEN = "trained", "frozen"


def trained_mask(params: Any, optim: OptimConfig) -> Any:
    """Tree of bools: False where a parameter is frozen.

    Raises:
      UserError: a pattern matches no parameter, or all are frozen.
    """
    trained = param_mask(params, exclude=optim.frozen)
    if not any(jax.tree.leaves(trained)):
        raise UserError(
            f"config.optim.frozen is {optim.frozen}, which leaves nothing to train; "
            f'"^(?!head/)" leaves the classifier'
        )
    return trained


def param_groups(params: Any, optim: OptimConfig) -> Any:
    """Tree of names: "frozen", or by who is decayed and clipped (``GROUP_NAMES``)."""
    trained = trained_mask(params, optim)
    decayed = param_mask(params, exclude=optim.no_decay)
    clipped = param_mask(params, exclude=optim.no_clip)
    return jax.tree.map(
        lambda t, d, c: GROUP_NAMES[d, c] if t else FROZEN, trained, decayed, clipped
    )


def learning_rate(recipe: Recipe) -> optax.Schedule:
    """The recipe's schedule, a function of the number of updates made before."""
    schedule = _schedule(recipe)
    if recipe.optim.lr_clock == "epoch":
        return by_epoch(schedule, int(recipe.steps_per_epoch))
    return schedule


def _schedule(recipe: Recipe) -> optax.Schedule:
    """The schedule that changes with every step."""
    optim, peak, warmup = recipe.optim, recipe.peak_lr, recipe.warmup_steps
    clock_start = 0.0 if optim.decay_clock == "start" else None
    if optim.schedule == "constant":
        return warmup_constant(peak, warmup, start=optim.lr_start)
    if optim.schedule == "exponential":
        assert optim.decay_rate is not None  # Recipe.from_config has checked
        assert optim.decay_epochs is not None
        return warmup_exponential(
            peak=peak,
            decay_rate=optim.decay_rate,
            warmup_steps=warmup,
            decay_steps=optim.decay_epochs * recipe.steps_per_epoch,
            start=optim.lr_start,
            clock_start=clock_start,
        )
    if optim.schedule == "step":
        assert optim.decay_rate is not None
        return warmup_step(
            peak=peak,
            decay_rate=optim.decay_rate,
            warmup_steps=warmup,
            milestones=[e * recipe.steps_per_epoch for e in optim.step_epochs],
            start=optim.lr_start,
            clock_start=clock_start,
        )
    return warmup_cosine(
        peak=peak,
        end=optim.lr_end,
        warmup_steps=warmup,
        total_steps=recipe.schedule_steps,
        start=optim.lr_start,
        clock_start=clock_start,
    )


def make_optimizer(recipe: Recipe, params: Any) -> optax.GradientTransformation:
    """The recipe's optimizer for this parameter tree.

    Args:
      recipe: with ``for_source`` applied, since the schedule counts its images.
      params: parameter tree or its shapes.

    Raises:
      UserError: a group pattern matches no parameter, or all are frozen.
    """
    optim = recipe.optim
    trained = trained_mask(params, optim)
    parts = []
    if optim.agc_clipping is not None:
        agc = adaptive_grad_clip(optim.agc_clipping, optim.agc_eps)
        transforms = {
            name: agc if clipped else optax.identity()
            for (_, clipped), name in GROUP_NAMES.items()
        }
        groups = _hide_frozen(param_groups(params, optim), trained)
        parts.append(optax.partition(transforms, groups))
    if optim.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    decayed = _hide_frozen(param_mask(params, exclude=optim.no_decay), trained)
    tx = optax.chain(*parts, *_descent(recipe, decayed))
    if optim.frozen:  # the state of a run without has no place for it
        labels = jax.tree.map(lambda t: TRAINED if t else FROZEN, trained)
        tx = optax.partition({TRAINED: tx, FROZEN: optax.set_to_zero()}, labels)
    if optim.layer_decay is not None:
        tx = optax.chain(tx, _scaled_by(layer_factors(params, optim.layer_decay)))
    return tx


def _hide_frozen(tree: Any, trained: Any) -> Any:
    """The tree as the trained part's transforms see it."""
    return jax.tree.map(lambda t, x: x if t else optax.MaskedNode(), trained, tree)


def _scaled_by(factors: Any) -> optax.GradientTransformation:
    """Multiplies each parameter's update, which has the learning rate as a factor."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, f: u * f, updates, factors)
    )


def _descent(recipe: Recipe, decayed: Any) -> tuple[optax.GradientTransformation, ...]:
    """What makes an update of the clipped gradient g.

    ``sgd``: m = momentum * m + g', and -lr * m, where g' = g + weight_decay * p.
    ``rmsprop``: likewise of g', see `rmsprop_tf`. ``adamw``: -lr * (m_hat /
    (sqrt(v_hat) + eps) + weight_decay * p). ``lamb``: see there.
    """
    optim, schedule = recipe.optim, learning_rate(recipe)
    if optim.name in ("adamw", "lamb"):
        assert optim.adam_b1 is not None  # Recipe.from_config has checked
        assert optim.adam_b2 is not None
        assert optim.adam_eps is not None
        adam = lamb if optim.name == "lamb" else optax.adamw
        return (
            adam(
                schedule,
                b1=optim.adam_b1,
                b2=optim.adam_b2,
                eps=optim.adam_eps,
                weight_decay=recipe.weight_decay,
                mask=decayed,
            ),
        )
    decay = optax.add_decayed_weights(recipe.weight_decay, mask=decayed)
    if optim.name == "sgd":
        trace = optax.trace(decay=optim.momentum, nesterov=optim.nesterov)
        return decay, trace, optax.scale_by_learning_rate(schedule)
    assert optim.rms_decay is not None
    assert optim.rms_eps is not None
    rmsprop = rmsprop_tf(
        schedule, decay=optim.rms_decay, eps=optim.rms_eps, momentum=optim.momentum
    )
    return decay, rmsprop


def count_trained(params: Any, optim: OptimConfig) -> int:
    """Number of the parameters that are not frozen."""
    trained = jax.tree.leaves(trained_mask(params, optim))
    leaves = jax.tree.leaves(params)
    return sum(x.size for t, x in zip(trained, leaves, strict=True) if t)


def count_units(params: Any, optim: OptimConfig) -> dict[str, int]:
    """Number of units that AGC looks at in each non-empty, clipped parameter group."""
    counts: dict[str, int] = {}
    if optim.agc_clipping is None:
        return counts
    groups = jax.tree.leaves(param_groups(params, optim))
    leaves = jax.tree_util.tree_leaves_with_path(params)
    for group, (path, leaf) in zip(groups, leaves, strict=True):
        if group in CLIPPED_GROUPS:
            unit_size = math.prod(leaf.shape[a] for a in default_unit_axes(path, leaf))
            counts[group] = counts.get(group, 0) + leaf.size // unit_size
    return counts


def clipped_fractions(opt_state: Any, units: Mapping[str, int]) -> dict[str, jax.Array]:
    """Fraction of units that AGC clipped in the last update, as metrics.

    Args:
      opt_state: state of ``make_optimizer``'s transform.
      units: from ``count_units``.

    Returns:
      float32 scalars: "agc_clipped" over all units, "agc_clipped/GROUP" for each group;
      empty when nothing is clipped.
    """
    if not units:
        return {}
    by_group = _find_agc(opt_state)
    found = {group: by_group[group].inner_state.clipped for group in units}
    overall = sum(
        (found[group] * count for group, count in units.items()), start=jnp.zeros(())
    ) / sum(units.values())
    shares = {f"agc_clipped/{group}": value for group, value in found.items()}
    return {"agc_clipped": overall, **shares}


def _find_agc(opt_state: Any) -> Mapping[str, Any]:
    """States of the transforms that clip, by group, in ``make_optimizer``'s state."""

    def is_agc(state: Any) -> bool:
        groups = getattr(state, "inner_states", {})
        return all(name in groups for name in CLIPPED_GROUPS)

    (found,) = filter(is_agc, jax.tree.leaves(opt_state, is_leaf=is_agc))
    return found.inner_states
