"""Four training steps of whole networks against timm: loss, norms, running variance."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from golden_fill import timm_arrays
from helpers import recipe_of

from nfnets.training.gradients import make_grad_fn, training_loss
from nfnets.training.losses import soft_targets, threshold_targets
from nfnets.training.optimizer import make_optimizer
from nfnets.training.parameter_paths import param_mask
from nfnets.weights import convert_timm, export_timm
from nfnets.weights.timm import timm_shapes

FOLDER = Path(__file__).parent / "golden"
GOLDEN = json.loads((FOLDER / "timm_training_runs.json").read_text("utf-8"))
CONSTANT = dict(
    dtype="float32",
    stochastic_depth_rate=0.0,
    drop_rate=0.0,
    data__num_classes=10,
    optim__schedule="constant",
    optim__lr_start=0.0,
    optim__lr_end=0.0,
    optim__warmup_epochs=0.0,
    optim__lr_per_256=None,
)
RECIPES = {
    "resnet18_rsb_a2": dict(CONSTANT, name="rsb_a2", model="resnet18"),
    # timm decays no biases, and keeps a tenth of each batch's statistics.
    "resnetrs50_sgd_ce": dict(
        CONSTANT,
        name="resnet_rs_50",
        bn_momentum=0.9,
        optim__no_decay=("(scale|bias)$",),
    ),
}


def recipe_of_run(name):
    changes = dict(RECIPES[name])
    changes["optim__lr_peak"] = GOLDEN[name]["optimizer"]["lr"]
    recipe = recipe_of(changes.pop("name"), **changes)
    assert recipe.weight_decay == GOLDEN[name]["optimizer"]["weight_decay"]
    assert recipe.label_smoothing == GOLDEN[name]["smoothing"]
    return recipe


def mixed_batch(step):
    """The images and labels of a step, mixed with themselves in reverse."""
    rng = np.random.RandomState(200 + step)
    images = rng.standard_normal((8, 64, 64, 3))
    labels, share = rng.randint(0, 10, 8), rng.uniform()
    mixed = share * images + (1 - share) * images[::-1]
    return jnp.asarray(mixed), jnp.asarray(labels), share


@pytest.fixture(scope="module", params=RECIPES)
def run(request):
    """Name; (loss, gradient norm) of each step; variables and logits after them.

    In float64: eight images of 2 x 2 pixels at the end are so few for BatchNorm that
    float32 alone moves the fourth loss by 2 %.
    """
    with jax.enable_x64(True):
        return four_steps(request.param)


def four_steps(name):
    recipe = recipe_of_run(name)
    model = recipe.create_model().clone(dtype=jnp.float64)
    shapes = {a.name: a.shape for a in timm_shapes(recipe.model, 10)}
    variables = convert_timm(recipe.model, timm_arrays(shapes))
    variables = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), variables)
    params, stats = variables["params"], variables["batch_stats"]
    tx = make_optimizer(recipe, params)
    # Our learning rates are float32: four steps make 1e-3 of that rounding of 5e-8.
    exact_rate = recipe.peak_lr / float(np.float32(recipe.peak_lr))
    grad_fn = make_grad_fn(model, training_loss(recipe))

    @jax.jit
    def train_step(params, stats, opt_state, images, labels, share):
        targets = soft_targets(
            labels, labels[::-1], jnp.full(8, share), 10, recipe.label_smoothing
        )
        if recipe.bce_target_threshold is not None:
            targets = threshold_targets(targets, recipe.bce_target_threshold)
        key = jax.random.key(0)  # nothing is drawn
        (loss, (stats, _)), grads = grad_fn(params, stats, images, targets, key)
        updates, opt_state = tx.update(grads, opt_state, params)
        updates = jax.tree.map(lambda update: exact_rate * update, updates)
        params = optax.apply_updates(params, updates)
        return params, stats, opt_state, (loss, optax.tree.norm(grads))

    opt_state, measured = tx.init(params), []
    for step in range(4):
        images, labels, share = mixed_batch(step)
        params, stats, opt_state, values = train_step(
            params, stats, opt_state, images, labels, share
        )
        measured.append([float(value) for value in values])
    variables = {"params": params, "batch_stats": stats}
    images = np.random.RandomState(0).standard_normal((2, 64, 64, 3))
    logits = model.apply(variables, jnp.asarray(images), train=False)
    return name, measured, export_timm(recipe.model, variables), logits


def test_losses_and_gradient_norms(run):
    name, measured, _, _ = run
    want = [[s["loss"], s["grad_norm"]] for s in GOLDEN[name]["steps"]]
    np.testing.assert_allclose(measured, want, rtol=1e-9)


def test_parameters_and_running_averages(run):
    name, _, arrays, _ = run
    for tensor, want in GOLDEN[name]["after"].items():
        found = np.asarray(arrays[tensor], np.float64)
        np.testing.assert_allclose(
            np.linalg.norm(found), want["l2"], rtol=1e-8, err_msg=tensor
        )
        np.testing.assert_allclose(
            found.ravel()[:4], want["first4"], rtol=2e-7, err_msg=tensor
        )


def test_logits_after_four_steps(run):
    name, _, _, logits = run
    want = np.array(GOLDEN[name]["eval_logits"])
    np.testing.assert_allclose(logits, want, atol=1e-9 * np.abs(want).max())


@pytest.mark.parametrize("name", RECIPES)
def test_decayed_tensors_are_those_of_timm(name):
    recipe = recipe_of_run(name)
    arrays = [a for a in timm_shapes(recipe.model, 10) if a.path is not None]
    params = [a for a in arrays if a.path[0] == "params"]
    decayed = [a for a in params if len(a.shape) > 1]
    groups = {g["weight_decay"]: g["tensors"] for g in GOLDEN[name]["param_groups"]}
    assert groups == {
        0.0: len(params) - len(decayed),
        recipe.weight_decay: len(decayed),
    }
    tree = {"/".join(a.path[1:]): jnp.zeros(()) for a in params}
    mask = param_mask(tree, exclude=recipe.optim.no_decay)
    assert {n for n, d in mask.items() if d} == {"/".join(a.path[1:]) for a in decayed}
