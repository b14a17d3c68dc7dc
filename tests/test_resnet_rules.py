"""ResNets and ResNet-RS: initial values, stochastic depth, shortcuts, stems, rows.

What timm's numbers hold is in test_resnet.py.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util

from nfnets.batch_norm import BatchNorm
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.initialize import init_variables
from nfnets.registry import create_model, get_variant, small_image_overrides
from nfnets.signal_propagation import signal_propagation
from resnet_rs.blocks import INITIAL_VALUES, BlockSpec, ConvSpec, ResidualBlock
from resnet_rs.resnet import VARIANTS, blocks

SMALL = {"stem_kernel": 3, "stem_stride": 1, "stem_pool": None}
TINY = SMALL | {"depths": (2, 2), "widths": (32, 64), "strides": (1, 2)}
RS = [f"resnet_rs_{n}" for n in (50, 101, 152, 200, 270, 350, 420)]


def noise(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def block_of(**changes):
    """A bottleneck with identity shortcut."""
    plain = BlockSpec(
        name="block",
        in_channels=16,
        convs=(ConvSpec(8), ConvSpec(8, 3), ConvSpec(16)),
        stride=1,
        shortcut_kernel=1,
        shortcut_pool=False,
        se_channels=None,
        zero_last_scale=False,
        stochastic_depth_rate=0.0,
    )
    make_norm = functools.partial(BatchNorm, momentum=0.9, epsilon=1e-5)
    spec = dataclasses.replace(plain, **changes)
    return ResidualBlock(spec, make_norm, INITIAL_VALUES["torch"])


def params_of(name, **overrides):
    model = create_model(name, num_classes=1000, **overrides)
    return init_variables(model, jax.random.key(0))["params"]


def flat_params(name, **overrides):
    return traverse_util.flatten_dict(params_of(name, **overrides), sep="/")


@pytest.mark.parametrize(
    "overrides",
    [
        {"se_ratio": 0.25},
        {"groups": 8, "bottleneck_ratios": (0.5, 0.5)},
    ],
)
def test_kernels_start_as_timms(overrides):
    """Normal, not cut, variance 2 / fan_out, which groups do not divide; 0 last."""
    wide = {"depths": (1, 1), "widths": (256, 512), "strides": (1, 2)}
    flat = flat_params("resnet50", **(wide | overrides))
    kernels = {n: k for n, k in flat.items() if n.endswith("kernel") and k.size > 3e4}
    assert len(kernels) > 5
    for name, kernel in kernels.items():
        if name == "head/kernel":
            continue
        std = np.sqrt(2 / (np.prod(kernel.shape[:-2]) * kernel.shape[-1]))
        np.testing.assert_allclose(np.std(kernel), std, rtol=0.02, err_msg=name)
        assert np.abs(kernel).max() > 3 * std, name
    for name in (n for n in flat if n.endswith("scale")):
        assert np.all(flat[name] == (0 if name.endswith("/bn2/scale") else 1)), name


def test_matrices_and_biases_start_as_pytorchs():
    """Uniform within 1 / sqrt(fan_in), of SE's biases too."""
    flat = flat_params(
        "seresnet50", se_ratio=0.5, depths=(1,), widths=(256,), strides=(1,)
    )
    bounds = {
        "head/kernel": 256**-0.5,
        "head/bias": 256**-0.5,
        "stage1_block0/squeeze_excite/reduce/bias": 256**-0.5,
        "stage1_block0/squeeze_excite/expand/bias": 128**-0.5,
    }
    for name, bound in bounds.items():
        values = np.asarray(flat[name])
        assert 0.97 * bound < np.abs(values).max() <= bound, name
        assert np.std(values) == pytest.approx(bound / np.sqrt(3), rel=0.1), name


def test_resnet_rs_starts_as_the_released_code():
    """Fan-in, normal cut at 2 std; the classifier N(0, 0.01); no bias but 0."""
    wide = {"depths": (1, 1), "widths": (256, 512), "strides": (1, 2)}
    flat = flat_params("resnet_rs_50", **wide)
    for name, values in flat.items():
        if name.endswith("bias"):
            assert not np.any(values), name
        elif name == "head/kernel":
            assert np.std(values) == pytest.approx(0.01, rel=0.01)
            assert np.abs(values).max() > 0.04
        elif name.endswith("scale"):
            assert np.all(values == (0 if name.endswith("/bn2/scale") else 1)), name
        elif values.size > 8000:
            std = np.prod(values.shape[:-1]) ** -0.5
            assert np.std(values) == pytest.approx(std, rel=0.03), name
            assert np.abs(values).max() <= 2.2737 * std, name  # 2 / 0.8796
            assert np.abs(values).max() > 2.2 * std, name


def test_no_branch_of_senet154_starts_at_0():
    narrow = TINY | {"groups": 8, "depths": (1, 1)}
    flat = flat_params("senet154", **narrow)
    assert all(np.all(v == 1) for n, v in flat.items() if n.endswith("scale"))


def test_stochastic_depth_grows_by_block_as_in_timm(golden):
    rates = golden("resnet_timm")["resnet50"]["drop_path_rates"]
    found = [b.stochastic_depth_rate for b in blocks(get_variant("resnet50"), 0.05)]
    np.testing.assert_allclose(found, rates, rtol=1e-12)


def test_stochastic_depth_of_resnet_rs_is_per_stage():
    """All blocks of the last stage have the whole rate, where timm's grows by block."""
    row = get_variant("resnet_rs_200")
    found = {}
    for spec in blocks(row, 0.1):
        found.setdefault(spec.name[:6], set()).add(
            round(spec.stochastic_depth_rate, 12)
        )
    assert found == {f"stage{g}": {(g + 1) / 50} for g in (1, 2, 3, 4)}


def test_surviving_branches_are_divided_by_their_probability():
    block, x = block_of(stochastic_depth_rate=0.75), noise(64, 4, 4, 16)
    variables = block.init(jax.random.key(0), x, train=False)
    rngs = {"stochastic_depth": jax.random.key(1)}
    apply = functools.partial(block.apply, variables, x, train=True, rngs=rngs)
    (output, residual), _ = apply(mutable=["batch_stats"])
    is_dropped = np.all(np.isclose(output, nn.relu(x), atol=1e-6), axis=(1, 2, 3))
    assert 0.5 < is_dropped.mean() < 1
    survivors = nn.relu(x + 4 * residual)[~is_dropped]
    np.testing.assert_allclose(output[~is_dropped], survivors, atol=1e-5)


def test_pooling_in_the_shortcut_is_where_the_stride_is():
    """2x2 means, at an odd border of the pixels that are there, then the 1x1."""
    x = noise(2, 5, 5, 16)
    wide = (ConvSpec(8), ConvSpec(8, 3), ConvSpec(32))
    strided = (ConvSpec(8), ConvSpec(8, 3, 2), ConvSpec(32))

    def shortcut(pool, stride):
        convs = wide if stride == 1 else strided
        block = block_of(
            convs=convs, stride=stride, shortcut_pool=pool, zero_last_scale=True
        )
        variables = block.init(jax.random.key(0), x, train=False)
        kernel = variables["params"]["conv_shortcut"]["kernel"][0, 0]
        output, _ = block.apply(variables, x, train=False)
        return output, kernel

    np.testing.assert_array_equal(shortcut(True, 1)[0], shortcut(False, 1)[0])
    output, kernel = shortcut(True, 2)
    windows = [slice(0, 2), slice(2, 4), slice(4, 5)]
    means = np.stack(
        [np.stack([x[:, r, c].mean((1, 2)) for c in windows], 1) for r in windows], 1
    )
    by_hand = np.maximum(means @ kernel, 0) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(output, by_hand, atol=1e-5)
    output, kernel = shortcut(False, 2)
    by_hand = np.maximum(x[:, ::2, ::2] @ kernel, 0) / np.sqrt(1 + 1e-5)
    np.testing.assert_allclose(output, by_hand, atol=1e-5)


def test_squeeze_excite_has_the_papers_width():
    """A quarter of 4w in ResNet-RS, a 16th in SE-ResNet; none elsewhere."""
    for name in RS:
        assert {b.se_channels for b in blocks(get_variant(name), 0.0)} == {
            64,
            128,
            256,
            512,
        }
    for name in ("seresnet50", "senet154"):
        assert {b.se_channels for b in blocks(get_variant(name), 0.0)} == {
            16,
            32,
            64,
            128,
        }
    others = set(VARIANTS) - {*RS, "seresnet50", "senet154"}
    for name in others:
        assert {b.se_channels for b in blocks(get_variant(name), 0.0)} == {None}


def size_before_the_stages(name, image_size, **overrides):
    """Pixels of the first block's output; its stride is 1."""
    model = create_model(name, num_classes=10, depths=(1, 1, 1, 1), **overrides)

    def run(images):
        return model.init_with_output(
            jax.random.key(0),
            images,
            train=False,
            mutable=True,
            capture_intermediates=lambda module, method: (
                (module.name, method) == ("stage1_block0", "__call__")
            ),
        )

    _, state = jax.eval_shape(run, jnp.zeros((1, image_size, image_size, 3)))
    ((output, _),) = state["intermediates"]["stage1_block0"]["__call__"]
    return output.shape[1]


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "senet154", "resnet_rs_50"])
def test_stems_shrink_large_images_by_4_and_small_ones_not(name):
    """ResNet-RS too, which has no max pooling."""
    assert size_before_the_stages(name, 64) == 16
    assert size_before_the_stages(name, 32, **small_image_overrides(name)) == 32


@pytest.mark.parametrize("unbiased", [True, False])
def test_running_variance_of_the_last_block_by_hand(unbiased):
    """Over 2 images of 4 x 4 pixels; a row may ask for the biased one."""
    model = create_model("resnet18", num_classes=10, bn_unbiased=unbiased, **TINY)
    variables = init_variables(model, jax.random.key(0))
    _, state = model.apply(
        variables,
        noise(2, 8, 8, 3),
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "conv1",
    )
    (features,) = state["intermediates"]["stage2_block1"]["conv1"]["__call__"]
    assert features.shape[:3] == (2, 4, 4)
    var = np.var(features, (0, 1, 2), ddof=int(unbiased))
    found = state["batch_stats"]["stage2_block1"]["bn1"]["var"]
    np.testing.assert_allclose(found, 0.9 + 0.1 * var, rtol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "resnet_rs_50"])
def test_signal_of_a_new_network_is_that_of_the_shortcuts(name):
    """Branches start at 0, so only projections change the signal."""
    model = create_model(name, num_classes=10, **TINY)
    variables = init_variables(model, jax.random.key(0))
    result = signal_propagation(model, variables, noise(8, 16, 16, 3))
    assert not np.any(result.res_avg_var)
    assert result.avg_var[1] == result.avg_var[2] != result.avg_var[3]
    other = create_model(
        name, num_classes=10, zero_last_scale=False, se_ratio=None, **TINY
    )
    variables = init_variables(other, jax.random.key(0))
    result = signal_propagation(other, variables, noise(8, 16, 16, 3))
    np.testing.assert_allclose(result.res_avg_var, 1, atol=1e-3)


def test_only_activations_are_bfloat16():
    model = create_model("resnet_rs_50", num_classes=10, dtype=jnp.bfloat16, **TINY)

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


def test_rows_of_the_papers_tables():
    rows = [get_variant(name) for name in RS]
    assert [r.train_size for r in rows] == [160, 160, 192, 256, 256, 256, 320]
    assert [r.eval_size for r in rows] == [r.train_size for r in rows]
    assert {r.bn_momentum for r in VARIANTS.values()} == {0.9}
    assert {r.bn_unbiased for r in VARIANTS.values()} == {True}
    others = [row for name, row in VARIANTS.items() if name not in RS]
    assert {(r.train_size, r.eval_size) for r in others} == {(224, 224)}
    assert get_variant("senet154").drop_rate == 0.2


def test_names_that_optimizers_go_by():
    """BatchNorm's end in bn or bn and a number; the classifier is head."""
    for name in ("resnet18", "senet154", "resnet_rs_50"):
        variables = abstract_variables(create_model(name, num_classes=10), 64)
        stats = traverse_util.flatten_dict(variables["batch_stats"])
        assert {path[-2].rstrip("0123456789")[-2:] for path in stats} == {"bn"}
        scales = {
            p[:-1]
            for p in traverse_util.flatten_dict(variables["params"])
            if p[-1] == "scale"
        }
        assert scales == {path[:-1] for path in stats}
        assert variables["params"]["head"]["kernel"].shape[1] == 10


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"block": "botleneck"}, r"unknown block 'botleneck'.*bottleneck"),
        ({"shortcut": "avg"}, r"unknown shortcut 'avg'"),
        ({"stem_pool": "maxx"}, r"unknown stem_pool 'maxx'.*max"),
        ({"init": "jax"}, r"unknown init 'jax'"),
        ({"stochastic_depth_growth": "blocks"}, r"stochastic_depth_growth 'blocks'"),
        ({"depths": (1, 1)}, r"one number per stage"),
        ({"stem_channels": ()}, r"stem_channels"),
        ({"stem_kernel": 4}, r"stem_kernel 4 should be odd"),
        ({"stem_stride": 0}, r"stem_stride 0 should be positive"),
        ({"se_ratio": -1.0}, r"se_ratio -1\.0 should be positive"),
        ({"depths": (0, 1, 1, 1)}, r"depths \(0, 1, 1, 1\) should all be positive"),
        ({"bottleneck_ratios": (0.5,)}, r"bottleneck_ratios \(0.5,\)"),
        ({"groups": 5}, r"64 channels cannot have groups=5"),
        ({"bn_momentum": 1.0}, r"bn_momentum 1.0"),
    ],
)
def test_impossible_rows_are_refused(overrides, message):
    with pytest.raises(UserError, match=message) as error:
        create_model("resnet50", num_classes=10, **overrides)
    assert "\n" not in str(error.value)
