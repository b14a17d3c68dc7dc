"""Recomputing blocks in the gradient: the same numbers, from less that is kept."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import TINY_FAMILIES, tiny_variables

from nfnets.registry import create_model

RNGS = {"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)}


def loss_of(name, *, remat):
    """(params, images) -> a loss in training, with random draws; and the variables."""
    model = create_model(name, num_classes=10, **TINY_FAMILIES[name])
    model = model.clone(remat=remat, drop_rate=0.5, stochastic_depth_rate=0.5)
    variables = tiny_variables(model)

    def loss(params, images):
        logits, _ = model.apply(
            {**variables, "params": params},
            images,
            train=True,
            rngs=RNGS,
            mutable=["batch_stats"],
        )
        return jnp.sum(logits**2)

    return loss, variables["params"]


@pytest.mark.parametrize("name", ["nfnet_f0", "effnetv2_s", "deit_ti"])
def test_the_same_gradients(name):
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    plain, params = loss_of(name, remat=False)
    again, _ = loss_of(name, remat=True)
    value, gradients = jax.jit(jax.value_and_grad(plain))(params, images)
    other, recomputed = jax.jit(jax.value_and_grad(again))(params, images)
    np.testing.assert_allclose(other, value, rtol=1e-6)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (recomputed, gradients)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_less_is_kept(name):
    images = jax.ShapeDtypeStruct((64, 8, 8, 3), jnp.float32)
    kept = {}
    for remat in (False, True):
        loss, params = loss_of(name, remat=remat)
        residuals = jax.eval_shape(
            lambda p, x, f=loss: jax.vjp(f, p, x)[1], params, images
        )
        kept[remat] = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(residuals))
    assert kept[True] < 0.7 * kept[False]
