"""The train step: a pure function, to be mapped over devices."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nfnets.data.erasing import random_erase
from nfnets.data.mixing import mix
from nfnets.data.normalization import normalize
from nfnets.training.losses import (
    binary_cross_entropy,
    is_right,
    soft_targets,
    softmax_cross_entropy,
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
# (params, batch_stats, images, targets, key) -> ((loss, (batch_stats, logits)), grads)
GradFn = Callable[..., tuple[tuple[jax.Array, tuple[Any, jax.Array]], Any]]
# (logits [B, K], targets [B, K]) -> [B]
LossFn = Callable[[jax.Array, jax.Array], jax.Array]


def training_loss(recipe: Recipe) -> LossFn:
    """The recipe's loss per example."""
    if recipe.loss == "bce":
        weight = recipe.bce_pos_weight
        return functools.partial(
            binary_cross_entropy,
            sum_classes=recipe.bce_sum_classes,
            pos_weight=1.0 if weight is None else weight,
        )
    return softmax_cross_entropy


def make_grad_fn(model: Any, loss_of: LossFn) -> GradFn:
    """Mean loss and gradient of one micro-batch, images float32 [B, S, S, 3]."""

    def loss_fn(
        params: Any, batch_stats: Any, images: jax.Array, targets: jax.Array, key: Any
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        dropout_key, depth_key = jax.random.split(key)
        logits, mutated = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": dropout_key, "stochastic_depth": depth_key},
        )
        loss = jnp.mean(loss_of(logits, targets))
        return loss, (mutated.get("batch_stats", batch_stats), logits)

    return jax.value_and_grad(loss_fn, has_aux=True)


def accumulate(grad_fn: GradFn, num_micro_batches: int) -> GradFn:
    """The same function, computed over equal micro-batches one after the other.

    Loss and gradients are means over the whole batch; BatchNorm statistics are handed
    from one micro-batch to the next.
    """
    if num_micro_batches == 1:
        return grad_fn

    def accumulated(
        params: Any, batch_stats: Any, images: jax.Array, targets: jax.Array, key: Any
    ) -> tuple[tuple[jax.Array, tuple[Any, jax.Array]], Any]:
        def body(carry: Any, micro: Any) -> tuple[Any, jax.Array]:
            batch_stats, loss_sum, grad_sum = carry
            images, targets, key = micro
            (loss, (batch_stats, logits)), grads = grad_fn(
                params, batch_stats, images, targets, key
            )
            grad_sum = jax.tree.map(jnp.add, grad_sum, grads)
            return (batch_stats, loss_sum + loss, grad_sum), logits

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(num_micro_batches, -1, *x.shape[1:])

        keys = jax.random.split(key, num_micro_batches)
        zeros = jax.tree.map(jnp.zeros_like, params)
        (batch_stats, loss_sum, grad_sum), logits = jax.lax.scan(
            body,
            (batch_stats, jnp.zeros(()), zeros),
            (split(images), split(targets), keys),
        )
        grads = jax.tree.map(lambda g: g / num_micro_batches, grad_sum)
        logits = logits.reshape(-1, logits.shape[-1])
        return (loss_sum / num_micro_batches, (batch_stats, logits)), grads

    return accumulated


def sharpness_aware(grad_fn: GradFn, recipe: Recipe, axis_name: str) -> GradFn:
    """SAM: the gradient at params + rho * g / ||g|| (arXiv 2010.01412, Eq. 2).

    The ascent gradient g sees a ``sam.batch_fraction`` of each device's batch, evenly
    spaced so that it has mixup and cutmix images alike, rounded to whole images per
    micro-batch. BatchNorm statistics, loss and logits are those of the second pass.
    """
    # Differs: g is averaged over the devices, so that the result does not depend on
    # their number; the SAM paper perturbs by each device's own gradient.
    rho, micro_batches = recipe.sam.rho, recipe.accumulation_steps
    if rho == 0:
        return grad_fn

    def sam_grad(
        params: Any, batch_stats: Any, images: jax.Array, targets: jax.Array, key: Any
    ) -> tuple[tuple[jax.Array, tuple[Any, jax.Array]], Any]:
        per_micro = recipe.sam.batch_fraction * images.shape[0] / micro_batches
        n = max(1, round(per_micro)) * micro_batches
        rows = np.arange(n) * images.shape[0] // n
        _, ascent = grad_fn(params, batch_stats, images[rows], targets[rows], key)
        ascent = jax.lax.pmean(ascent, axis_name)
        scale = rho / jnp.maximum(optax.tree.norm(ascent), 1e-12)
        perturbed = jax.tree.map(lambda p, g: p + scale * g, params, ascent)
        return grad_fn(perturbed, batch_stats, images, targets, key)

    return sam_grad


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
    grad_fn = make_grad_fn(model, training_loss(recipe))
    grad_fn = accumulate(grad_fn, recipe.accumulation_steps)
    grad_fn = sharpness_aware(grad_fn, recipe, axis_name=axis_name)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(recipe.seed), state.step)
        key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        mix_key, model_key, erase_key = jax.random.split(key, 3)
        images, labels, targets = _prepare(
            batch, mix_key, erase_key, recipe, stage, label_sets
        )
        (loss, (batch_stats, logits)), grads = grad_fn(
            state.params, state.batch_stats, images, targets, model_key
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


def _prepare(
    batch: Batch,
    mix_key: jax.Array,
    erase_key: jax.Array,
    recipe: Recipe,
    stage: Stage,
    label_sets: np.ndarray | None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixes, normalises, erases: images [B, S, S, 3], first labels [B], targets [B, K].

    A batch that the host has mixed brings "mix_label" [B] and "ratio" [B], the weight
    of "label", and is not mixed again.
    """
    if "ratio" in batch:
        images, labels = batch["image"].astype(jnp.float32), batch["label"]
        mix_labels, ratio = batch["mix_label"], batch["ratio"]
    else:
        images, labels, mix_labels, ratio = mix(
            batch["image"], batch["label"], mix_key, stage.augment
        )
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
    if recipe.bce_target_threshold is not None:
        targets = threshold_targets(
            targets,
            recipe.bce_target_threshold,
            sum_to_one=recipe.bce_sum_to_one,
            label_smoothing=recipe.label_smoothing if smooth_after else 0.0,
        )
    images = normalize(images, recipe.data.normalization)
    if stage.augment.erase_rate > 0:
        images = random_erase(images, erase_key, stage.augment)
    return images, labels, targets


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
    params = optax.apply_updates(state.params, updates)
    updated = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
    if recipe.ema_decay is not None:
        decay = jnp.asarray(recipe.ema_decay, jnp.float32)
        if recipe.ema_schedule == "ramp":
            decay = ema_ramp(recipe.ema_decay, state.step + recipe.ema_first_update)
        average = optax.incremental_update(
            (params, batch_stats),
            (state.ema_params, state.ema_batch_stats),
            step_size=1 - decay,
        )
        updated = updated.replace(ema_params=average[0], ema_batch_stats=average[1])
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
