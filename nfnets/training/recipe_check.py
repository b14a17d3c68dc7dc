"""Values that a recipe cannot have, each named by its path before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nfnets import registry
from nfnets.data.augment_config import check_augment, check_eval_crop
from nfnets.errors import UserError
from nfnets.training.stages import check_progressive

if TYPE_CHECKING:
    from nfnets.training.recipe import Recipe
    from nfnets.training.recipe_parts import OptimConfig


def check(recipe: Recipe) -> None:
    """Raises a UserError that names the first field whose value cannot work."""
    registry.get_variant(recipe.model, **recipe.overrides)
    registry.get_variant(recipe.reference_model, **recipe.model_overrides)
    for field, value in _positive(recipe).items():
        if value is not None and not value > 0:
            raise UserError(f"config.{field} is {value}, it must be positive")
    for field, value in _rates(recipe).items():
        if value is not None and not 0 <= value < 1:
            raise UserError(f"config.{field} is {value}, it must be in [0, 1)")
    for field, value in _not_negative(recipe).items():
        if not value >= 0:
            raise UserError(f"config.{field} is {value}, it must not be negative")
    if recipe.sam.batch_fraction > 1:
        raise UserError(
            f"config.sam.batch_fraction is {recipe.sam.batch_fraction}, expected (0, 1]"
        )
    if recipe.seed >= 2**32:  # all that jax.random.key reads
        raise UserError(f"config.seed is {recipe.seed}, it must be below 2**32")
    if recipe.eval.split == "holdout" and recipe.data.holdout == 0:
        raise UserError(
            "config.eval.split is holdout, but config.data.holdout is 0; the official "
            "code keeps 10000"
        )
    if recipe.data.drop_last and recipe.batch_size > recipe.data.num_train:
        raise UserError(
            f"config.batch_size is {recipe.batch_size}, but there are "
            f"{recipe.data.num_train:g} training images, and by config.data.drop_last "
            f"an epoch has whole batches only: set a smaller batch"
        )
    _check_schedule(recipe.optim, recipe.data.drop_last)
    _check_descent(recipe.optim)
    _check_loss(recipe)
    check_progressive(recipe.progressive, recipe.constant_stage)
    check_eval_crop(recipe.eval_crop)
    for stage in recipe.stages:
        check_augment(stage.augment)


# Fields that only some optimizers, schedules and losses have; None or empty elsewhere.
_OPTIMIZERS_WITH = {
    "rms_decay": ("rmsprop",),
    "rms_eps": ("rmsprop",),
    "adam_b1": ("adamw", "lamb"),
    "adam_b2": ("adamw", "lamb"),
    "adam_eps": ("adamw", "lamb"),
}
_SCHEDULES_WITH = {
    "decay_rate": ("exponential", "step"),
    "decay_epochs": ("exponential",),
    "step_epochs": ("step",),
}
# What the published recipes give them, for the message.
_USUAL = {
    "rms_decay": "0.9 in EfficientNet",
    "rms_eps": "0.001 in EfficientNet",
    "adam_b1": "0.9 in RSB",
    "adam_b2": "0.999 in RSB",
    "adam_eps": "1e-6 in RSB's LAMB, 1e-8 in DeiT's AdamW",
    "decay_rate": "0.97 in EfficientNet, 0.1 in ResNet",
    "decay_epochs": "2.4 in EfficientNet",
    "step_epochs": "(30, 60) of 90 epochs in ResNet",
}


def _check_belongs(
    optim: OptimConfig, chooser: str, owners: Mapping[str, tuple[str, ...]]
) -> None:
    """Raises where a field is missing that the choice needs, or given to another."""
    choice = getattr(optim, chooser)
    for field, choices in owners.items():
        value = getattr(optim, field)
        absent = value is None or value == ()
        if choice in choices and absent:
            raise UserError(
                f"config.optim.{field} is {value}, but config.optim.{chooser} is "
                f"{choice}, which needs it ({_USUAL[field]})"
            )
        if choice not in choices and not absent:
            raise UserError(
                f"config.optim.{field} is {value}, which {choice} has not: set it to "
                f"{() if isinstance(value, tuple) else None}, or "
                f"config.optim.{chooser} to {' or '.join(choices)}"
            )


def _check_schedule(optim: OptimConfig, drop_last: bool) -> None:
    _check_belongs(optim, "schedule", _SCHEDULES_WITH)
    if (optim.lr_peak is None) == (optim.lr_per_256 is None):
        raise UserError(
            f"config.optim.lr_peak is {optim.lr_peak} and config.optim.lr_per_256 "
            f"{optim.lr_per_256}: give one of them and set the other to None"
        )
    if any(epoch <= 0 for epoch in optim.step_epochs):
        raise UserError(
            f"config.optim.step_epochs is {optim.step_epochs}, they must be positive"
        )
    if optim.decay_rate is not None and optim.decay_rate > 1:
        raise UserError(
            f"config.optim.decay_rate is {optim.decay_rate}, it must be at most 1"
        )
    if optim.schedule != "cosine" and optim.lr_end != 0:
        raise UserError(
            f"config.optim.lr_end is {optim.lr_end}, which the schedule "
            f"{optim.schedule} has not: set it to 0.0, or config.optim.schedule to "
            "cosine"
        )
    if optim.lr_clock == "epoch" and not drop_last:
        raise UserError(
            "config.optim.lr_clock is epoch, but config.data.drop_last is False, so "
            "that epochs are not whole steps: set it to True"
        )


def _check_descent(optim: OptimConfig) -> None:
    _check_belongs(optim, "name", _OPTIMIZERS_WITH)
    if optim.layer_decay is not None and optim.layer_decay > 1:
        raise UserError(
            f"config.optim.layer_decay is {optim.layer_decay}, it must be in (0, 1]"
        )
    if optim.name != "sgd" and optim.nesterov:
        raise UserError(
            f"config.optim.nesterov is True, but config.optim.name is {optim.name}, "
            "which has no such momentum: set it to False"
        )
    if optim.name in ("adamw", "lamb") and optim.momentum != 0:
        raise UserError(
            f"config.optim.momentum is {optim.momentum}, but config.optim.name is "
            f"{optim.name}: set it to 0.0; adam_b1 takes its place"
        )


def _check_loss(recipe: Recipe) -> None:
    threshold = recipe.bce_target_threshold
    given = {
        "bce_target_threshold": threshold,
        "bce_pos_weight": recipe.bce_pos_weight,
        "bce_sum_classes": recipe.bce_sum_classes or None,
        "bce_sum_to_one": recipe.bce_sum_to_one or None,
        "bce_smoothing": None if recipe.bce_smoothing == "before" else "after",
    }
    for field, value in given.items():
        if recipe.loss != "bce" and value is not None:
            raise UserError(
                f"config.loss is {recipe.loss}, which has no {field} ({value}): set it "
                f"as the other recipes of {recipe.loss} have it, or config.loss to bce"
            )
        needs_threshold = field in ("bce_sum_to_one", "bce_smoothing")
        if threshold is None and needs_threshold and value is not None:
            raise UserError(
                f"config.{field} is {value}, which is about targets above a threshold, "
                "but config.bce_target_threshold is None: give it (0.2 in RSB)"
            )
    smoothed = recipe.label_smoothing / recipe.num_classes
    if recipe.bce_smoothing == "after" or threshold is None:
        return
    if threshold < smoothed:
        raise UserError(
            f"config.bce_target_threshold is {threshold}, below the {smoothed:g} that "
            f"label_smoothing {recipe.label_smoothing} gives to each of the "
            f"{recipe.num_classes} classes, so every class would be a target"
        )


def _positive(recipe: Recipe) -> dict[str, float | None]:
    return {
        **_overridden(recipe, "train_size", "eval_size"),
        "num_epochs": recipe.num_epochs,
        "batch_size": recipe.batch_size,
        "accumulation_steps": recipe.accumulation_steps,
        "log_every_steps": recipe.log_every_steps,
        "checkpoint_every_steps": recipe.checkpoint_every_steps,
        "max_nonfinite_steps": recipe.max_nonfinite_steps,
        "watchdog_minutes": recipe.watchdog_minutes,
        "image_size": recipe.train_image_size,
        "eval.image_size": recipe.eval_image_size,
        "eval.batch_size": recipe.eval.batch_size,
        "eval.every_epochs": recipe.eval.every_epochs,
        "data.threads": recipe.data.threads,
        "data.num_train": recipe.data.num_train,
        "data.num_classes": recipe.data.num_classes,
        "data.reference_classes": recipe.data.reference_classes,
        "optim.lr_per_256": recipe.optim.lr_per_256,
        "optim.lr_peak": recipe.optim.lr_peak,
        "optim.decay_rate": recipe.optim.decay_rate,
        "optim.decay_epochs": recipe.optim.decay_epochs,
        "optim.rms_eps": recipe.optim.rms_eps,
        "optim.adam_eps": recipe.optim.adam_eps,
        "optim.clip_norm": recipe.optim.clip_norm,
        "bce_pos_weight": recipe.bce_pos_weight,
        "optim.agc_clipping": recipe.optim.agc_clipping,
        "optim.agc_eps": recipe.optim.agc_eps,
        "optim.layer_decay": recipe.optim.layer_decay,
        "sam.batch_fraction": recipe.sam.batch_fraction,
    }


def _rates(recipe: Recipe) -> dict[str, float | None]:
    return {
        **_overridden(recipe, "drop_rate", "stochastic_depth_rate", "bn_momentum"),
        "label_smoothing": recipe.label_smoothing,
        "bce_target_threshold": recipe.bce_target_threshold,
        "optim.momentum": recipe.optim.momentum,
        "optim.rms_decay": recipe.optim.rms_decay,
        "optim.adam_b1": recipe.optim.adam_b1,
        "optim.adam_b2": recipe.optim.adam_b2,
        "bn_momentum": recipe.bn_momentum,
        "drop_rate": recipe.drop_rate,
        "stochastic_depth_rate": recipe.stochastic_depth_rate,
        "ema_decay": recipe.ema_decay,
        "data.max_damaged": recipe.data.max_damaged,
    }


def _not_negative(recipe: Recipe) -> dict[str, float]:
    return {
        **_overridden(recipe, "weight_decay"),
        "seed": recipe.seed,
        "min_steps": recipe.min_steps,
        "ema_first_update": recipe.ema_first_update,
        "data.holdout": recipe.data.holdout,
        "optim.lr_start": recipe.optim.lr_start,
        "optim.lr_end": recipe.optim.lr_end,
        "optim.cooldown_epochs": recipe.optim.cooldown_epochs,
        "optim.warmup_epochs": recipe.optim.warmup_epochs,
        "optim.weight_decay": recipe.weight_decay,
        "sam.rho": recipe.sam.rho,
    }


def _overridden(recipe: Recipe, *fields: str) -> dict[str, float]:
    """Those of a row's fields that ``model_overrides`` give a number."""
    given = recipe.model_overrides
    return {
        f"model_overrides.{field}": given[field]
        for field in fields
        if given.get(field) is not None
    }
