"""The recipes of ResNet strikes back and ResNet-RS against their papers' tables."""

from __future__ import annotations

import dataclasses

import jax
import pytest
from helpers import recipe_of

from nfnets import flops
from nfnets.initialize import init_variables
from nfnets.registry import create_model
from nfnets.training import parallel
from nfnets.training.compiled_steps import abstract_batch
from nfnets.training.optimizer import make_optimizer, param_groups
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step

# 2110.00476, Table 2: epochs, updates, peak rate, decay, smoothing, mixup, RandAugment,
# repeats, stochastic depth, training pixels.
PROCEDURES = {
    "rsb_a1": (600, 375_000, 5e-3, 0.01, 0.1, 0.2, 7, 3, 0.05, 224),
    "rsb_a2": (300, 187_500, 5e-3, 0.02, 0.0, 0.1, 7, 3, 0.05, 224),
    "rsb_a3": (100, 62_500, 8e-3, 0.02, 0.0, 0.1, 6, 1, 0.0, 160),
}


@pytest.mark.parametrize("name", PROCEDURES)
def test_procedures_are_those_of_the_paper(name):
    recipe = recipe_of(name)
    augment = recipe.augment
    assert (
        recipe.num_epochs,
        recipe.total_steps,
        recipe.peak_lr,
        recipe.weight_decay,
        recipe.label_smoothing,
        augment.mixup_alpha,
        augment.randaugment_magnitude,
        augment.repeats,
        recipe.stochastic_depth_rate,
        recipe.train_image_size,
    ) == PROCEDURES[name]
    assert (recipe.batch_size, recipe.optim.name, recipe.loss) == (2048, "lamb", "bce")
    assert (recipe.eval_image_size, recipe.eval.crop_pct) == (224, 0.95)


# Released configs: pixels, RandAugment magnitude, dropout, stochastic depth.
RESNET_RS = {
    "50_i160": (10, 0.25, 0.0),
    "101_i160": (10, 0.25, 0.0),
    "101_i192": (15, 0.25, 0.0),
    "152_i192": (15, 0.25, 0.0),
    "152_i224": (15, 0.25, 0.0),
    "152_i256": (15, 0.25, 0.0),
    "200_i256": (15, 0.25, 0.1),
    "270_i256": (15, 0.25, 0.1),
    "350_i256": (15, 0.25, 0.1),
    "350_i320": (15, 0.4, 0.1),
    "420_i320": (15, 0.4, 0.1),
}


@pytest.mark.parametrize("variant", RESNET_RS)
def test_resnet_rs_is_as_released(variant):
    recipe = recipe_of(f"resnet_rs_{variant}")
    size = int(variant.partition("_i")[2])
    found = (
        recipe.augment.randaugment_magnitude,
        recipe.drop_rate,
        recipe.stochastic_depth_rate,
    )
    assert found == RESNET_RS[variant]
    assert recipe.train_image_size == recipe.eval_image_size == size
    pad = {160: 23, 192: 27, 224: 32, 256: 37, 320: 46}[size]
    assert recipe.eval.crop_pct == size / (size + pad)
    assert (recipe.total_steps, recipe.peak_lr) == (109_475, 1.6)
    assert recipe.overrides == {"bn_momentum": 0.0, "bn_unbiased": True}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("rsb_a1", "resnet18"),
        ("rsb_a2", "nf_resnet50"),
        ("rsb_a3", "effnetv2_b0"),
        ("rsb_t2", "deit_ti"),
        ("resnet_rs_50", "resnet_rs_50"),
        ("nfnet_f0", "resnet18"),
    ],
)
def test_any_network_trains_under_any_recipe(name, model):
    """Traced only."""
    recipe = dataclasses.replace(recipe_of(name, model=model), batch_size=8)
    (stage,) = recipe.stages
    network = recipe.create_model()
    shapes = flops.abstract_variables(network, stage.image_size)
    tx = make_optimizer(recipe, shapes["params"])
    keep = recipe.ema_decay is not None
    state = jax.eval_shape(lambda v: init_state(v, tx, keep_ema=keep), shapes)
    step = make_train_step(network, tx, recipe, parallel.AXIS, stage=stage)
    after, metrics = jax.eval_shape(
        parallel.pmap_train_step(step), state, abstract_batch(recipe, stage)
    )
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert metrics["loss"].shape == ()


@pytest.mark.parametrize("name", ["rsb_a2", "rsb_b", "rsb_c1", "rsb_d", "rsb_fams"])
def test_no_two_parts_of_the_state_share_memory(name):
    """The train step donates its state, which it can do with each buffer once."""
    recipe = recipe_of(name)
    row = {"depths": (1,), "widths": (8,), "strides": (1,), "stem_channels": (8,)}
    model = create_model("resnet50", num_classes=2, **row)
    variables = init_variables(model, jax.random.key(0), 8)
    tx = make_optimizer(recipe, variables["params"])
    state = init_state(variables, tx, keep_ema=recipe.ema_decay is not None)
    leaves = jax.tree.leaves(state)
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize("name", ["resnet_rs_50", "rsb_a2", "rsb_c1", "rsb_pytorch"])
@pytest.mark.parametrize("model", ["nf_regnet_b0", "fixup_resnet50", "deit_ti"])
def test_patterns_of_the_recipes_fit_other_networks(name, model):
    recipe = recipe_of(name, model=model)
    shapes = flops.abstract_variables(recipe.create_model(), 224)
    groups = param_groups(shapes["params"], recipe.optim)
    assert set(jax.tree.leaves(groups)) >= {"weights"}
