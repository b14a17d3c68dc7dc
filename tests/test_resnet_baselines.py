"""BatchNorm, SkipInit and Fixup ResNets: training, initialisation, recipes.

The evaluation pass, the parameter names and the counts are in test_networks_golden.py,
test_haiku_names.py and test_counts.py.
"""

from __future__ import annotations

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_fill import golden_arrays, golden_images
from helpers import recipe_of
from jax import lax

from nfnets.batch_norm import BatchNorm
from nfnets.data.normalization import normalize
from nfnets.initialize import init_variables
from nfnets.nf_layers import BlockSpec
from nfnets.registry import create_model
from nfnets.resnet_blocks import (
    FixupBlock,
    PostActBlock,
    PreActBlock,
    SkipInitBlock,
)
from nfnets.signal_propagation import signal_propagation
from nfnets.training.losses import soft_targets, softmax_cross_entropy
from nfnets.training.optimizer import make_optimizer
from nfnets.training.state import init_state
from nfnets.training.steps import make_train_step
from nfnets.weights.haiku import convert_haiku, export_haiku

# No shrinking before the blocks, for images of a few pixels.
SMALL = {"stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
TINY = SMALL | {
    "depths": (2, 2),
    "widths": (16, 32),
    "strides": (1, 2),
    "stem_channels": 8,
}
BASELINES = [
    "dm_resnet50",
    "dm_resnet50_postact",
    "skipinit_resnet50",
    "fixup_resnet50",
]


def noise(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("name", ["dm_resnet50", "dm_resnet50_postact"])
def test_training_pass_and_running_averages_equal_the_official_code(name, golden):
    """Officially ``hidden`` is the average before its zero-debiasing, which is ours."""
    want = golden("nfnet_models")[name]["train64"]
    model = create_model(name, num_classes=1000)
    arrays = golden_arrays(golden("nfnet_param_lists")[name])
    variables = convert_haiku(name, arrays)
    logits, state = jax.jit(
        lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"])
    )(variables, golden_images(64))

    np.testing.assert_allclose(logits[:, :16], want["logits16"], rtol=0, atol=1e-3)
    labels = jnp.array([3, 7])
    targets = soft_targets(labels, labels, jnp.ones(2), 1000, label_smoothing=0.1)
    loss = jnp.mean(softmax_cross_entropy(logits, targets))
    np.testing.assert_allclose(loss, want["loss"], rtol=1e-4)
    hidden = export_haiku(name, jax.device_get(state))
    for official, (mean, norm) in want["hidden"].items():
        array = hidden[official]
        np.testing.assert_allclose(array.mean(), mean, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(array), norm, rtol=1e-5)


NORM = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)


class Norm(nn.Module):
    """One BatchNorm by itself."""

    dtype: jnp.dtype = jnp.float32
    unbiased: bool = False

    @nn.compact
    def __call__(self, x, *, train):
        norm = BatchNorm(0.9, 1e-5, self.unbiased, dtype=self.dtype, name="bn")
        return norm(x, train=train)


def norm_variables():
    variables = Norm().init(jax.random.key(0), jnp.zeros((1, 1, 1, 3)), train=False)
    scale, bias = jnp.array([0.5, 1.0, 2.0]), jnp.array([-1.0, 0.0, 3.0])
    return variables | {"params": {"bn": {"scale": scale, "bias": bias}}}


def test_batch_norm_gives_the_batch_the_mean_and_deviation_of_its_parameters():
    x = 1 + 2 * noise(8, 5, 5, 3)
    y, _ = Norm().apply(norm_variables(), x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(y.mean((0, 1, 2)), [-1, 0, 3], atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), [0.5, 1, 2], rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
def test_running_averages_by_hand(unbiased):
    variables = norm_variables()
    mean, var = np.zeros(3), np.ones(3)
    for seed in range(4):
        x = np.asarray(1 + 2 * noise(8, 5, 5, 3, seed=seed))
        norm = Norm(unbiased=unbiased)
        _, state = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = variables | state
        mean = 0.9 * mean + 0.1 * np.mean(x, (0, 1, 2))
        var = 0.9 * var + 0.1 * np.var(x, (0, 1, 2), ddof=int(unbiased))
    stats = variables["batch_stats"]["bn"]
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], var, rtol=1e-5)
    scale, bias = np.array([0.5, 1, 2]), np.array([-1, 0, 3])
    y = Norm().apply(variables, x, train=False)
    by_hand = (x - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(y, by_hand, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 100.0, 1000.0])
def test_batch_norm_keeps_its_digits_where_the_mean_is_large(mean):
    """Beside float64; the running average of the mean, 0, is far off."""
    x = mean + noise(8, 16, 16, 3)
    _, state = Norm().apply(norm_variables(), x, train=True, mutable=["batch_stats"])
    exact = np.asarray(x, np.float64)
    averages = state["batch_stats"]["bn"]
    variance = np.var(exact, (0, 1, 2))
    np.testing.assert_allclose(averages["var"], 0.9 + 0.1 * variance, rtol=2e-6)
    np.testing.assert_allclose(
        averages["mean"], 0.1 * np.mean(exact, (0, 1, 2)), rtol=2e-6, atol=1e-6
    )


def test_batch_norm_is_float32_inside_bfloat16_networks():
    """A mean of 100 and a deviation of 1: in bfloat16 the sums would lose it."""
    x = (100 + noise(8, 16, 16, 3)).astype(jnp.bfloat16)
    apply = functools.partial(
        Norm(jnp.bfloat16).apply, norm_variables(), train=True, mutable=["batch_stats"]
    )
    y, state = apply(x)
    want, want_state = Norm().apply(
        norm_variables(), x.astype(jnp.float32), train=True, mutable=["batch_stats"]
    )
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, want.astype(jnp.bfloat16))
    chex.assert_trees_all_equal(state, want_state)


@pytest.mark.parametrize("name", BASELINES)
def test_only_activations_are_bfloat16(name):
    model = create_model(name, num_classes=10, dtype=jnp.bfloat16, **TINY)

    def init(key):
        return model.init_with_output(key, jnp.zeros((1, 8, 8, 3)), train=False)

    traced, outputs = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(outputs)} == {np.dtype("float32")}
    products = ("conv_general_dilated", "dot_general")
    dtypes = [
        e.outvars[0].aval.dtype
        for e in traced.jaxpr.eqns
        if e.primitive.name in products
    ]
    assert dtypes[-1] == jnp.float32  # the classifier
    assert set(dtypes[:-1]) == {jnp.dtype(jnp.bfloat16)}


def conv(x, kernel, stride=1):
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@pytest.mark.parametrize("name", ["skipinit_resnet50", "fixup_resnet50"])
def test_at_initialisation_only_the_shortcuts_remain(name):
    """What SkipInit and Fixup are for; the classifier starts at 0 too."""
    model = create_model(name, num_classes=10, **TINY)
    variables, images = init_variables(model, jax.random.key(0)), noise(2, 8, 8, 3)
    outputs, state = model.apply(
        variables, images, train=False, capture="all", mutable=["signal"]
    )
    params = variables["params"]
    x = conv(images, params["stem_conv"]["kernel"])
    for block, stride in (("stage1_block0", 1), ("stage2_block0", 2)):
        kernel = params[block]["conv_shortcut"]["kernel"]
        x = conv(nn.relu(x), kernel, stride)
    pool = nn.relu(x).mean((1, 2))
    np.testing.assert_allclose(outputs["pooled"], pool, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["logits"], np.zeros((2, 10)))
    residuals = [state["signal"][f"res_avg_var_{i}"] for i in range(4)]
    assert all(r == 0 for r in residuals) == (name == "fixup_resnet50")


def test_fixup_kernels_start_smaller_in_deeper_networks():
    """Normal with variance 2 / fan_out, times 1 / sqrt(L) in the branches (Sec. 3)."""
    wide = TINY | {"depths": (8, 8), "widths": (256, 512), "stem_channels": 64}
    model = create_model("fixup_resnet50", num_classes=10, **wide)
    params = init_variables(model, jax.random.key(0))["params"]
    first, block = params["stage2_block0"], params["stage2_block1"]
    close = functools.partial(np.testing.assert_allclose, rtol=0.02)
    close(np.var(block["conv0"]["kernel"]), 2 / 128 / 4)
    close(np.var(block["conv1"]["kernel"]), 2 / (128 * 9) / 4)
    close(np.var(first["conv_shortcut"]["kernel"]), 2 / 512)
    assert not np.any(block["conv2"]["kernel"])
    assert block["scale"] == 1


@pytest.mark.parametrize(
    ("make_block", "shortcut"),
    [
        (functools.partial(PreActBlock, make_norm=NORM), lambda x, _: x),
        (functools.partial(PostActBlock, make_norm=NORM), lambda x, _: nn.relu(x)),
        (SkipInitBlock, lambda x, _: x),
        (
            functools.partial(FixupBlock, num_blocks=4),
            lambda x, params: nn.relu(x + params["bias1a"]),
        ),
    ],
    ids=BASELINES,
)
def test_a_dropped_branch_leaves_the_shortcut(make_block, shortcut):
    spec = BlockSpec("b", 16, 16, 4, 1, 1, 1.0, stochastic_depth_rate=0.0)
    x = noise(3, 4, 4, 16)
    shapes = make_block(spec).init(jax.random.key(0), x, train=False)
    variables = jax.tree.map(lambda a: 0.5 + jnp.abs(noise(*a.shape)), shapes)
    run = {"train": True, "mutable": ["batch_stats"]}
    (whole, _), _ = make_block(spec).apply(variables, x, **run)
    assert not np.allclose(whole, shortcut(x, variables["params"]))
    dropping = make_block(dataclasses.replace(spec, stochastic_depth_rate=1.0))
    rngs = {"stochastic_depth": jax.random.key(1)}
    (dropped, _), _ = dropping.apply(variables, x, rngs=rngs, **run)
    np.testing.assert_array_equal(dropped, shortcut(x, variables["params"]))


def test_signal_of_batch_norm_grows_by_the_residual_variance():
    """2101.08692, Sec. 3: Var(h_{l+1}) = Var(h_l) + Var(f_l), by the batch alone."""
    wide = SMALL | {"depths": (5,), "widths": (128,), "strides": (1,)}
    model = create_model("dm_resnet50", num_classes=10, **wide)
    variables = init_variables(model, jax.random.key(0))
    images = noise(8, 24, 24, 3)
    result = signal_propagation(model, variables, images)
    growth = np.diff(result.avg_var)[1:]
    np.testing.assert_allclose(growth, result.res_avg_var[1:], rtol=0.15)
    other = jax.tree.map(lambda a: 3 + a, variables["batch_stats"])
    again = signal_propagation(model, variables | {"batch_stats": other}, images)
    np.testing.assert_array_equal(again.avg_var, result.avg_var)


def test_running_averages_are_the_mean_over_devices():
    """Each of two devices normalises by its own half of the batch."""
    recipe = recipe_of(
        "dm_resnet_50",
        model_overrides=TINY | {"depths": (1, 1)},
        batch_size=16,
        ema_decay=0.99,
        data__num_classes=10,
        optim__warmup_epochs=0.0,
    )
    model = recipe.create_model()
    variables = init_variables(model, jax.random.key(0), 8)
    tx = make_optimizer(recipe, variables["params"])
    state = init_state(variables, tx, keep_ema=True)
    step = jax.pmap(
        make_train_step(model, tx, recipe),
        axis_name="batch",
        in_axes=(None, 0),
        out_axes=(None, None),
        devices=jax.devices()[:2],
    )
    forward = jax.jit(
        functools.partial(model.apply, train=True, mutable=["batch_stats"])
    )
    average = state.ema_batch_stats
    for seed in range(2):
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (2, 8, 8, 8, 3), np.uint8)
        labels = rng.integers(0, 10, (2, 8), np.int32)
        before = {"params": state.params, "batch_stats": state.batch_stats}
        state, metrics = step(state, {"image": images, "label": labels})
        state = jax.device_get(state)
        pixels = images.astype(np.float32)
        halves = [forward(before, normalize(half))[1] for half in pixels]
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)["batch_stats"]
        chex.assert_trees_all_close(state.batch_stats, mean, rtol=1e-4, atol=1e-6)
        decay = (1 + seed) / (10 + seed)
        average = jax.tree.map(
            lambda a, b, d=decay: d * a + (1 - d) * b, average, state.batch_stats
        )
        chex.assert_trees_all_close(state.ema_batch_stats, average, rtol=1e-5)
        assert np.isfinite(metrics["loss"])
    assert not np.allclose(*(h["batch_stats"]["final_bn"]["mean"] for h in halves))


def test_models_of_the_recipes():
    """The base config drops no blocks of BatchNorm ResNets, and 0.1 of the others'."""
    assert recipe_of("nf_resnet_se101").model == "nf_seresnet101"
    recipe = recipe_of("dm_resnet_101")
    rates = [
        dataclasses.replace(recipe, model=name).create_model().stochastic_depth_rate
        for name in BASELINES
    ]
    assert rates == [0, 0, 0.1, 0.1]
