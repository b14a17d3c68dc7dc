"""The gradient of a step: its loss, micro-batches, sharpness-aware minimisation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nfnets.training.frozen import resting_norms, without_gradient
from nfnets.training.losses import binary_cross_entropy, softmax_cross_entropy
from nfnets.training.recipe import Recipe

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


def make_grad_fn(model: Any, loss_of: LossFn, frozen: Sequence[str] = ()) -> GradFn:
    """Mean loss and gradient of one micro-batch, images float32 [B, S, S, 3].

    The gradient of ``frozen`` parameters (``OptimConfig.frozen``) is 0.
    """

    def loss_fn(
        params: Any, batch_stats: Any, images: jax.Array, targets: jax.Array, key: Any
    ) -> tuple[jax.Array, tuple[Any, jax.Array]]:
        dropout_key, depth_key = jax.random.split(key)
        params = without_gradient(params, frozen)
        with resting_norms(params, batch_stats, frozen):
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
