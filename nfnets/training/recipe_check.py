"""Values that a recipe cannot have, each named by its path before anything runs."""

from __future__ import annotations

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
    registry.get_variant(recipe.reference_model)
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
    if recipe.seed >= 2**63:
        raise UserError(f"config.seed is {recipe.seed}, it must be below 2**63")
    if recipe.eval.split == "holdout" and recipe.data.holdout == 0:
        raise UserError(
            "config.eval.split is holdout, but config.data.holdout is 0; the official "
            "code keeps 10000"
        )
    _check_schedule(recipe.optim)
    _check_descent(recipe.optim)
    _check_loss(recipe)
    check_progressive(recipe.progressive, recipe.constant_stage)
    check_eval_crop(recipe.eval_crop)
    for stage in recipe.stages:
        check_augment(stage.augment)


def _check_schedule(optim: OptimConfig) -> None:
    exponential = {
        "decay_rate": optim.decay_rate,
        "decay_epochs": optim.decay_epochs,
    }
    if optim.schedule == "exponential" and None in exponential.values():
        raise UserError(
            "config.optim.schedule is exponential: give config.optim.decay_rate and "
            "config.optim.decay_epochs"
        )
    if optim.decay_rate is not None and optim.decay_rate > 1:
        raise UserError(
            f"config.optim.decay_rate is {optim.decay_rate}, it must be at most 1"
        )
    for field, value in exponential.items():
        if optim.schedule != "exponential" and value is not None:
            raise UserError(
                f"config.optim.{field} is {value}, which the schedule "
                f"{optim.schedule} has not: set it to None, or config.optim.schedule "
                "to exponential"
            )
    if optim.schedule != "cosine" and optim.lr_end != 0:
        raise UserError(
            f"config.optim.lr_end is {optim.lr_end}, which the schedule "
            f"{optim.schedule} has not: set it to 0.0, or config.optim.schedule to "
            "cosine"
        )


def _check_descent(optim: OptimConfig) -> None:
    for field, value in {
        "rms_decay": optim.rms_decay,
        "rms_eps": optim.rms_eps,
    }.items():
        if optim.name == "rmsprop" and value is None:
            raise UserError(
                f"config.optim.{field} is None, but config.optim.name is rmsprop: give "
                "it a number (EfficientNet: rms_decay 0.9, rms_eps 0.001)"
            )
        if optim.name != "rmsprop" and value is not None:
            raise UserError(
                f"config.optim.{field} is {value}, which {optim.name} has not: set it "
                "to None, or config.optim.name to rmsprop"
            )
    if optim.name == "rmsprop" and optim.nesterov:
        raise UserError(
            "config.optim.nesterov is True, but config.optim.name is rmsprop, whose "
            "momentum is plain: set it to False"
        )


def _check_loss(recipe: Recipe) -> None:
    threshold = recipe.bce_target_threshold
    if recipe.loss != "bce" and (threshold is not None or recipe.bce_sum_classes):
        raise UserError(
            f"config.loss is {recipe.loss}, which has neither bce_target_threshold "
            f"({threshold}) nor bce_sum_classes ({recipe.bce_sum_classes}): set them "
            "to None and False, or config.loss to bce"
        )
    smoothed = recipe.label_smoothing / recipe.num_classes
    if threshold is not None and threshold < smoothed:
        raise UserError(
            f"config.bce_target_threshold is {threshold}, below the {smoothed:g} that "
            f"label_smoothing {recipe.label_smoothing} gives to each of the "
            f"{recipe.num_classes} classes, so every class would be a target"
        )


def _positive(recipe: Recipe) -> dict[str, float | None]:
    return {
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
        "optim.decay_rate": recipe.optim.decay_rate,
        "optim.decay_epochs": recipe.optim.decay_epochs,
        "optim.rms_eps": recipe.optim.rms_eps,
        "optim.agc_clipping": recipe.optim.agc_clipping,
        "optim.agc_eps": recipe.optim.agc_eps,
        "sam.batch_fraction": recipe.sam.batch_fraction,
    }


def _rates(recipe: Recipe) -> dict[str, float | None]:
    return {
        "label_smoothing": recipe.label_smoothing,
        "bce_target_threshold": recipe.bce_target_threshold,
        "optim.momentum": recipe.optim.momentum,
        "optim.rms_decay": recipe.optim.rms_decay,
        "drop_rate": recipe.drop_rate,
        "stochastic_depth_rate": recipe.stochastic_depth_rate,
        "ema_decay": recipe.ema_decay,
        "data.max_damaged": recipe.data.max_damaged,
    }


def _not_negative(recipe: Recipe) -> dict[str, float]:
    return {
        "seed": recipe.seed,
        "min_steps": recipe.min_steps,
        "ema_first_update": recipe.ema_first_update,
        "data.holdout": recipe.data.holdout,
        "optim.lr_end": recipe.optim.lr_end,
        "optim.warmup_epochs": recipe.optim.warmup_epochs,
        "optim.weight_decay": recipe.weight_decay,
        "sam.rho": recipe.sam.rho,
    }
