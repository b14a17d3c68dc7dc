"""The optimizer chains of the official codes, assembled from optax transforms.

Order matters: clip the raw gradient, unit by unit and then as a whole, then add the
weight decay. NFNet's ``sgd`` then has the momentum, and multiplies by the learning rate
last, so that it is not accumulated; TensorFlow 1's ``rmsprop``, EfficientNet's,
accumulates the product. ``adamw`` and ``lamb`` have a decay of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from nfnets.agc import AdaptiveGradClipState, adaptive_grad_clip, default_unit_axes
from nfnets.errors import UserError
from nfnets.training.lamb import lamb
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


def path_str(path: tuple[Any, ...]) -> str:
    """A key path as the "stage1_block0/conv0/kernel" that the regexes match."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def param_mask(params: Any, exclude: Sequence[str]) -> Any:
    """Tree of bools: False where one of the regexes is found in a parameter's path.

    Args:
      params: parameter tree; only its paths are read.
      exclude: regexes, searched (not anchored) in "a/b/kernel" paths.

    Raises:
      UserError: a regex is none, or matches no parameter, which would silently change
        a group.
    """
    paths = [path_str(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    for regex in exclude:
        try:
            re.compile(regex)
        except re.error as error:
            raise UserError(f"the pattern {regex!r} is none: {error}") from error
        if not any(re.search(regex, path) for path in paths):
            raise UserError(
                f"the pattern {regex!r} matches no parameter of this model; its paths "
                f"look like {paths[0]} and {paths[-1]}"
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, _: not any(re.search(r, path_str(path)) for r in exclude), params
    )


def param_groups(params: Any, optim: OptimConfig) -> Any:
    """Tree of group names (``GROUP_NAMES``), by who is decayed and who is clipped."""
    decayed = param_mask(params, exclude=optim.no_decay)
    clipped = param_mask(params, exclude=optim.no_clip)
    return jax.tree.map(lambda d, c: GROUP_NAMES[d, c], decayed, clipped)


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
      UserError: a group pattern matches no parameter.
    """
    optim = recipe.optim
    parts = []
    if optim.agc_clipping is not None:
        agc = adaptive_grad_clip(optim.agc_clipping, optim.agc_eps)
        transforms = {
            name: agc if clipped else optax.identity()
            for (_, clipped), name in GROUP_NAMES.items()
        }
        parts.append(optax.partition(transforms, param_groups(params, optim)))
    if optim.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    decayed = param_mask(params, exclude=optim.no_decay)
    return optax.chain(*parts, *_descent(recipe, decayed))


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
    partition = opt_state[0].inner_states  # AGC comes first
    found = {
        group: state.clipped
        for group in units
        for state in jax.tree.leaves(
            partition[group], is_leaf=lambda x: isinstance(x, AdaptiveGradClipState)
        )
        if isinstance(state, AdaptiveGradClipState)
    }
    overall = sum(
        (found[group] * count for group, count in units.items()), start=jnp.zeros(())
    ) / sum(units.values())
    by_group = {f"agc_clipped/{group}": value for group, value in found.items()}
    return {"agc_clipped": overall, **by_group}
