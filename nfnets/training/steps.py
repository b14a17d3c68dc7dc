"""The train step: a pure function, to be mapped over devices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nfnets.data.erasing import random_erase
from nfnets.data.mixing import mix
from nfnets.data.mixing_draws import Mixed
from nfnets.data.normalization import normalize
from nfnets.training.frozen import keep_frozen, moving
from nfnets.training.gradients import (
    accumulate,
    make_grad_fn,
    sharpness_aware,
    training_loss,
)
from nfnets.training.losses import (
    is_right,
    soft_targets,
    threshold_targets,
)
from nfnets.training.optimizer import clipped_fractions, count_units, learning_rate
from nfnets.training.recipe import Recipe
from nfnets.training.schedules import ema_ramp
from nfnets.training.stages import Stage
from nfnets.training.state import TrainState

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    model: Any,
    tx: optax.GradientTransformation,
    recipe: Recipe,
    axis_name: str = "batch",
    *,
    stage: Stage | None = None,
    label_sets: np.ndarray | None = None,
) -> TrainStep:
    """The step (state, batch) -> (state, metrics), to be mapped over ``axis_name``.

    The batch is one device's share: "image" uint8 [P * B, S, S, 3] and "label" int32
    [P * B], P = ``mixing.partners``: 2 when the step mixes as NFNet does (partners
    included), else 1. Where the host has mixed them, P is 1 and the partners'
    "mix_label" int32 [B] and the weight of "label", "ratio" float32 [B], come along.
    Metrics are scalars, equal on all devices. An update whose loss or gradient is not
    finite changes nothing but the step and the counts of skipped updates.

    Args:
      model: takes (images, train=...), as ``Recipe.create_model`` gives.
      tx: from ``make_optimizer``.
      recipe: with ``for_source`` applied.
      axis_name: of the device axis; ``pmean`` is taken over it.
      stage: the stage to train; None takes the recipe's first.
      label_sets: int32 [K, L], each class's labels; None where an image has one.
    """
    stage = stage or recipe.stages[0]
    schedule = learning_rate(recipe)
    grad_fn = make_grad_fn(model, training_loss(recipe), recipe.optim.frozen)
    grad_fn = accumulate(grad_fn, recipe.accumulation_steps)
    grad_fn = sharpness_aware(grad_fn, recipe, axis_name=axis_name)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = step_keys(recipe.seed, state.step, jax.lax.axis_index(axis_name))
        images, labels, mix_labels, ratio = network_input(batch, keys, recipe, stage)
        targets = _targets(labels, mix_labels, ratio, recipe, label_sets)
        (loss, (batch_stats, logits)), grads = grad_fn(
            state.params, state.batch_stats, images, targets, keys.model
        )
        guesses = jnp.argmax(logits, axis=-1, keepdims=True)  # [B, 1]
        top1 = jnp.mean(is_right(guesses, labels, label_sets), dtype=jnp.float32)
        loss, top1, grads, batch_stats = jax.lax.pmean(
            (loss, top1, grads, batch_stats), axis_name
        )
        new_state, measured = _update(state, grads, batch_stats, loss, tx, recipe)
        metrics = {
            "loss": loss,
            "top1": top1,
            # The schedule's clock counts the updates that were made.
            "learning_rate": schedule(state.step - state.skipped[1]),
            **measured,
        }
        return new_state, metrics

    return train_step


class StepKeys(NamedTuple):
    """What is random in one step on one device."""

    mix: jax.Array
    model: jax.Array
    erase: jax.Array


def step_keys(seed: int, step: jax.Array | int, device: jax.Array | int) -> StepKeys:
    """Functions of the run's seed, the steps done before and the device's number."""
    key = jax.random.fold_in(jax.random.key(seed), step)
    return StepKeys(*jax.random.split(jax.random.fold_in(key, device), 3))


def network_input(batch: Batch, keys: StepKeys, recipe: Recipe, stage: Stage) -> Mixed:
    """Mixes, normalises, erases one device's batch.

    A batch that the host has mixed brings "mix_label" [B] and "ratio" [B], the weight
    of "label", and is not mixed again.

    Returns:
      Images float32 [B, S, S, 3], labels [B], their partners' [B], and the weight of
      the first labels, float32 [B].
    """
    if "ratio" in batch:
        images, labels = batch["image"].astype(jnp.float32), batch["label"]
        mix_labels, ratio = batch["mix_label"], batch["ratio"]
    else:
        images, labels, mix_labels, ratio = mix(
            batch["image"], batch["label"], keys.mix, stage.augment
        )
    images = normalize(images, recipe.data.normalization)
    if stage.augment.erase_rate > 0:
        images = random_erase(images, keys.erase, stage.augment)
    return images, labels, mix_labels, ratio


def _targets(
    labels: jax.Array,
    mix_labels: jax.Array,
    ratio: jax.Array,
    recipe: Recipe,
    label_sets: np.ndarray | None,
) -> jax.Array:
    """Mixed and smoothed labels, as the loss has them: [B, K]."""
    smooth_after = recipe.bce_smoothing == "after"
    targets = soft_targets(
        labels,
        mix_labels,
        ratio,
        recipe.num_classes,
        0.0 if smooth_after else recipe.label_smoothing,
        label_sets=label_sets,
        sum_to_one=recipe.loss == "softmax",
    )
    if recipe.bce_target_threshold is None:
        return targets
    return threshold_targets(
        targets,
        recipe.bce_target_threshold,
        sum_to_one=recipe.bce_sum_to_one,
        label_smoothing=recipe.label_smoothing if smooth_after else 0.0,
    )


def _update(
    state: TrainState,
    grads: Any,
    batch_stats: Any,
    loss: jax.Array,
    tx: optax.GradientTransformation,
    recipe: Recipe,
) -> tuple[TrainState, Metrics]:
    """Applies the mean gradient unless it is not finite; returns state and metrics."""
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    old = (state.params, state.batch_stats)
    new = (optax.apply_updates(state.params, updates), batch_stats)
    moves = moving(*old, recipe.optim.frozen)
    params, batch_stats = keep_frozen(moves, new, old)
    updated = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    if recipe.ema_decay is not None:
        decay = jnp.asarray(recipe.ema_decay, jnp.float32)
        if recipe.ema_schedule == "ramp":
            decay = ema_ramp(recipe.ema_decay, state.step + recipe.ema_first_update)
        old = (state.ema_params, state.ema_batch_stats)
        new = optax.incremental_update((params, batch_stats), old, step_size=1 - decay)
        params, batch_stats = keep_frozen(moves, new, old)
        updated = updated.replace(ema_params=params, ema_batch_stats=batch_stats)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
    kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
    skipped = jnp.where(finite, state.skipped * jnp.array([0, 1]), state.skipped + 1)
    metrics = {
        "grad_norm": grad_norm,
        **clipped_fractions(opt_state, count_units(state.params, recipe.optim)),
        "skipped_in_a_row": skipped[0],
        "skipped_total": skipped[1],
    }
    return kept.replace(step=state.step + 1, skipped=skipped), metrics
