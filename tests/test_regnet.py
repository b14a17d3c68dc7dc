"""RegNetY against timm's numbers, and the laws of its training."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_fill import golden_images, timm_arrays

from nfnets.errors import UserError
from nfnets.flops import count
from nfnets.initialize import init_variables
from nfnets.registry import create_model, get_variant, list_models
from nfnets.signal_propagation import signal_propagation
from nfnets.weights import convert_timm, export_timm
from nfnets.weights.timm import timm_shapes
from resnet_rs.regnet import block_widths, blocks, stages

NAMES = ["regnety_4gf", "regnety_8gf", "regnety_16gf", "regnety_32gf"]
# Two stages: one block of 16 channels, two of 32; the last has no projection.
TINY = {"w0": 16, "wa": 8.0, "wm": 2.0, "depth": 3, "group_width": 8}
TINY |= {"stem_channels": 8, "se_ratio": 1.0}  # of fewer, all might be dead


@pytest.fixture(scope="module")
def tiny():
    """The small network with the goldens' values: no scale of 0, unlike at first."""
    model = create_model("regnety_4gf", num_classes=10, **TINY)
    shapes = {a.name: a.shape for a in timm_shapes("regnety_4gf", 10, overrides=TINY)}
    return model, convert_timm("regnety_4gf", timm_arrays(shapes), overrides=TINY)


@functools.partial(jax.jit, static_argnums=0)
def train_step(model, variables, images, seed):
    """Logits, state and everything captured of a forward pass in training."""
    keys = jax.random.split(jax.random.key(seed))
    return model.apply(
        variables,
        images,
        train=True,
        rngs=dict(zip(("dropout", "stochastic_depth"), keys, strict=True)),
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )


def test_logits_equal_timm(golden):
    """An odd size too, where padding decides."""
    expected = golden("timm_regnet_vit")["logits"]["regnety_4gf"]
    shapes = {a.name: a.shape for a in timm_shapes("regnety_4gf")}
    variables = convert_timm("regnety_4gf", timm_arrays(shapes))
    model = create_model("regnety_4gf", num_classes=1000)
    forward = jax.jit(functools.partial(model.apply, train=False))
    for size in ("64", "97"):
        logits = np.asarray(forward(variables, golden_images(int(size))))
        tolerance = 1e-5 * expected[size]["max_abs"]
        first = np.array(expected[size]["logits16"])
        np.testing.assert_allclose(logits[:, :16], first, rtol=0, atol=tolerance)
        assert abs(logits.sum() - expected[size]["sum"]) < tolerance * logits.size**0.5
        assert logits.std() == pytest.approx(expected[size]["std"], rel=1e-5)


def test_a_pass_in_training_equals_timms(golden):
    """The batch's statistics, and the running averages of the whole network after."""
    expected = golden("timm_regnet_vit")["regnety_4gf_train"]
    shapes = {a.name: a.shape for a in timm_shapes("regnety_4gf")}
    variables = convert_timm("regnety_4gf", timm_arrays(shapes))
    model = create_model("regnety_4gf", num_classes=1000)
    forward = jax.jit(
        functools.partial(model.apply, train=True, mutable=["batch_stats"])
    )
    logits, state = forward(variables, golden_images(97))
    first, tolerance = np.array(expected["logits16"]), 5 * expected["float32_error"]
    np.testing.assert_allclose(logits[:, :16], first, rtol=0, atol=tolerance)
    after = export_timm("regnety_4gf", variables | state)
    for name, total in expected["running_var_sums"].items():
        assert after[name].sum() == pytest.approx(total, rel=1e-5), name
    for name, norm in expected["running_mean_norms"].items():
        assert np.linalg.norm(after[name]) == pytest.approx(norm, rel=1e-5), name


@pytest.mark.parametrize("name", NAMES)
def test_parameters_macs_and_stages(name, golden):
    expected, row = golden("timm_regnet_vit")["counts"][name], get_variant(name)
    model = create_model(name, num_classes=1000)
    for size in (224, 160):
        counts = count(model, size)
        assert counts[:2] == (expected["params"], expected[f"macs_{size}"])
    first = [b for b in blocks(row, 0.0) if b.name.endswith("block0")]
    found = [
        [depth, width, groups, spec.se_channels]
        for (depth, width, groups), spec in zip(stages(row), first, strict=True)
    ]
    assert found == expected["stages"]


def test_rows_of_the_table():
    assert sorted(list_models("regnety_*")) == sorted(NAMES)
    for name in NAMES:
        row = get_variant(name)
        assert (row.train_size, row.eval_size) == (224, 224)
        assert (row.bn_momentum, row.bn_unbiased, row.se_ratio) == (0.9, True, 0.25)
        assert (row.drop_rate, row.stochastic_depth_rate) == (0.0, 0.0)


def test_quantised_linear_rule_by_hand():
    """Widths 16, 24, 32, 40, 48, 56 are 16 * 2^(0, 0.58, 1, 1.32, 1.58, 1.81)."""
    row = get_variant("regnety_4gf", **TINY)
    assert block_widths(row) == [16, 32, 32]
    assert stages(row) == [(1, 16, 2), (2, 32, 4)]
    longer = get_variant("regnety_4gf", **(TINY | {"depth": 6}))
    assert block_widths(longer) == [16, 32, 32, 32, 64, 64]
    # In groups of 12, 16 channels become one, 32 three and 64 five of them.
    other = get_variant("regnety_4gf", **(TINY | {"depth": 6, "group_width": 12}))
    assert stages(other) == [(1, 12, 1), (3, 36, 3), (2, 60, 5)]
    # A group is no wider than its stage.
    wide = get_variant("regnety_4gf", **(TINY | {"group_width": 24}))
    assert stages(wide) == [(1, 16, 1), (2, 24, 1)]


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_grows_to_its_rate_in_the_last_block(name, golden):
    expected = golden("timm_regnet_vit")["counts"][name]
    specs = blocks(get_variant(name), expected["drop_path_rate"])
    rates = [spec.stochastic_depth_rate for spec in specs]
    np.testing.assert_allclose(rates, expected["drop_path"], rtol=1e-6)


def test_initial_values():
    """Normal of variance 2 / fan-out, per group; the last scale of a block is 0."""
    overrides = {"w0": 256, "wa": 128.0, "depth": 2, "group_width": 128}
    model = create_model("regnety_4gf", num_classes=1000, wm=2.0, **overrides)
    params = init_variables(model, jax.random.key(1))["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    std = {
        "stem_conv/kernel": (2 / (9 * 32)) ** 0.5,
        "stage1_block0/conv1/kernel": (2 / 256) ** 0.5,
        "stage1_block0/conv2/kernel": (2 / (9 * 128)) ** 0.5,
        "stage2_block0/conv3/kernel": (2 / 512) ** 0.5,
        "stage2_block0/shortcut_conv/kernel": (2 / 512) ** 0.5,
        "stage2_block0/squeeze_excite/reduce/kernel": (2 / 64) ** 0.5,
        "stage2_block0/squeeze_excite/expand/kernel": (2 / 512) ** 0.5,
        "head/kernel": 0.01,
    }
    for name, value in std.items():
        size = flat[name].size
        assert flat[name].std() == pytest.approx(value, rel=4 / size**0.5), name
    for name, value in flat.items():
        if name.endswith("bias") or name.endswith("bn3/scale"):
            assert not value.any(), name
        elif name.endswith("scale"):
            assert (value == 1).all(), name


def test_gradients_reach_everything_and_kernels_under_batchnorm_turn_only(tiny):
    """BatchNorm takes a kernel's scale away, so that no gradient points along it."""
    model, variables = tiny

    @jax.jit
    def gradients(params, images):
        def loss(params):
            logits, _ = model.apply(
                variables | {"params": params},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.mean(jnp.square(logits - 1))

        return jax.grad(loss)(params)

    params = variables["params"]
    grads = traverse_util.flatten_dict(gradients(params, golden_images(32)), sep="/")
    for name, value in traverse_util.flatten_dict(params, sep="/").items():
        grad = np.asarray(grads[name])
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name
        if name.split("/")[-2].startswith(("conv", "stem_conv", "shortcut_conv")):
            axes = tuple(range(value.ndim - 1))
            along = np.abs((grad * value).sum(axes)).max()
            size = np.sqrt((grad**2).sum(axes) * (np.asarray(value) ** 2).sum(axes))
            assert along < 2e-3 * size.max(), name


def test_running_variance_is_the_unbiased_one(tiny):
    model, variables = tiny
    variables = init_variables(model, jax.random.key(0))
    images = golden_images(8)
    _, state = train_step(model, variables, images, 0)
    (x,) = state["intermediates"]["stem_conv"]["__call__"]
    stats = state["batch_stats"]["stem_bn"]
    n = 2 * 4 * 4
    var = jnp.var(x, axis=(0, 1, 2)) * (n / (n - 1))
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * var, rtol=1e-5)
    mean = jnp.mean(x, axis=(0, 1, 2))
    np.testing.assert_allclose(stats["mean"], 0.1 * mean, atol=1e-6)


def test_stochastic_depth_drops_whole_branches_and_rescales_the_others(tiny):
    model, variables = tiny
    model = model.clone(stochastic_depth_rate=0.6)
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    _, state = train_step(model, variables, images, 0)
    for i, name in enumerate(("stage1_block0", "stage2_block0", "stage2_block1")):
        found = state["intermediates"][name]
        (kept,) = found["stochastic_depth"]["__call__"]
        ((_, residual),) = found["__call__"]
        is_kept = np.abs(kept).max(axis=(1, 2, 3)) > 0
        survival = 1 - 0.6 * i / 2
        expected = np.where(is_kept[:, None, None, None], residual / survival, 0)
        np.testing.assert_allclose(kept, expected, rtol=1e-5)
        assert is_kept.any()
        assert is_kept.all() == (i == 0)


def test_dropout_acts_before_the_classifier_and_only_in_training(tiny):
    model, variables = tiny
    images = golden_images(16)
    half = model.clone(drop_rate=0.5)
    logits = [train_step(half, variables, images, seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert (logits[0] != logits[2]).any()
    forward = jax.jit(lambda m, v, x: m.apply(v, x, train=False), static_argnums=0)
    evaluated = [forward(m, variables, images) for m in (model, half)]
    np.testing.assert_array_equal(*evaluated)


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(tiny):
    model, variables = tiny
    images = golden_images(32)
    half = model.clone(dtype=jnp.bfloat16)
    logits, state = train_step(half, variables, images, 0)
    assert state["intermediates"]["stage2_block0"]["conv2"]["__call__"][0].dtype == (
        jnp.bfloat16
    )
    kept = (logits, init_variables(half, jax.random.key(0)), state["batch_stats"])
    assert {x.dtype for x in jax.tree.leaves(kept)} == {jnp.dtype("float32")}
    exact, _ = train_step(model, variables, images, 0)
    assert jnp.abs(logits - exact).max() < 0.1 * exact.std()
    assert (logits != exact).any()


def test_probes_of_signal_propagation(tiny):
    """At first every residual ends in a scale of 0, so that nothing is added."""
    model, _ = tiny
    variables = init_variables(model, jax.random.key(0))
    signal = signal_propagation(model, variables, golden_images(32))
    assert signal.avg_var.shape == (4,)
    np.testing.assert_array_equal(signal.res_avg_var, np.zeros(3))
    assert signal.avg_var[3] == signal.avg_var[2]  # no projection either


def test_small_images_keep_their_size_in_the_stem(tiny):
    model, _ = tiny
    overrides = TINY | {"stem_stride": 1}
    model = create_model("regnety_4gf", num_classes=10, **overrides)
    _, state = jax.eval_shape(
        lambda key, x: model.init_with_output(
            key, x, train=False, capture_intermediates=True, mutable=True
        ),
        jax.random.key(0),
        golden_images(32),
    )
    found = state["intermediates"]
    assert found["stem_conv"]["__call__"][0].shape == (2, 32, 32, 8)
    assert found["stage2_block1"]["conv1"]["__call__"][0].shape == (2, 8, 8, 32)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"w0": 12}, "w0 12 should be a positive multiple of 8"),
        ({"wm": 1.0}, "wm 1.0 should be more than 1"),
        ({"wa": -1.0}, "wa -1.0 should be at least 0"),
        ({"depth": 0}, "depth 0 should be more than 0"),
        ({"group_width": 0}, "group_width 0"),
        ({"se_ratio": 0.0}, "se_ratio 0.0"),
        ({"stem_stride": 0}, "stem_stride 0"),
        ({"bn_momentum": 1.0}, r"bn_momentum 1.0 should be in \[0, 1\)"),
    ],
)
def test_impossible_rows_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        create_model("regnety_4gf", num_classes=10, **overrides)
