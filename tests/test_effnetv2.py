"""EfficientNets against timm's numbers, and the rules of the official code."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_fill import golden_images, timm_arrays

from effnetv2.blocks import round_filters, round_repeats
from effnetv2.model import blocks
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.initialize import init_variables
from nfnets.registry import create_model, get_variant, list_models
from nfnets.signal_propagation import signal_propagation
from nfnets.weights import convert_timm

MODELS = ["effnetv2_b0", "effnetv2_s", "effnet_b0"]

# Every kind of block: fused with and without expansion and SE, MBConv with and without.
TINY = {
    "stages": (
        "r2_k3_s1_e1_i16_o16_c1",
        "r2_k3_s2_e4_i16_o24_se0.25_c1",
        "r1_k5_s1_e1_i24_o32_se0.25",
        "r2_k3_s2_e2_i32_o32_se0.25",
    ),
    "head_channels": 32,
}


@pytest.fixture(scope="session")
def filled(golden):
    """(model name, gain) -> variables with the goldens' values."""

    @functools.cache
    def load(name, gain):
        shapes = dict(golden("effnetv2_param_lists")[name])
        return convert_timm(name, timm_arrays(shapes, gain))

    return load


@pytest.fixture(scope="module")
def tiny():
    model = create_model("effnetv2_s", num_classes=10, **TINY)
    return model, init_variables(model, jax.random.key(0))


def assert_near(logits, expected, tolerance):
    """Within ``tolerance`` standard deviations of the goldens' logits."""
    std = expected["std"]
    off = np.abs(logits[:, :16] - np.array(expected["logits16"])).max() / std
    assert off < tolerance
    assert abs(logits.sum() - expected["sum"]) < tolerance * std * logits.size
    assert logits.std() == pytest.approx(std, rel=tolerance)
    difference = np.abs(logits[0] - logits[1]).mean()
    assert difference == pytest.approx(expected["sample_diff"], rel=10 * tolerance)


@pytest.mark.parametrize("size", ["64", "80"])
@pytest.mark.parametrize("name", MODELS)
def test_logits_equal_timm(name, size, filled, golden):
    """Even sizes, where TensorFlow's SAME padding is one-sided."""
    expected = golden("effnetv2_models")[name]
    model = create_model(name, num_classes=1000)
    forward = jax.jit(functools.partial(model.apply, train=False))
    variables = filled(name, expected["gain_g"])
    logits = np.asarray(forward(variables, golden_images(int(size))))
    assert_near(logits, expected["eval_gain_g"][size], 1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_logits_with_the_batchs_statistics_equal_timm(name, filled, golden):
    expected = golden("effnetv2_models")[name]
    model = create_model(name, num_classes=1000)
    model = model.clone(drop_rate=0.0, stochastic_depth_rate=0.0)
    forward = jax.jit(
        functools.partial(model.apply, train=True, mutable=["batch_stats"])
    )
    logits, _ = forward(filled(name, 1.0), golden_images(97))
    tolerance = 5 * expected["train_bn_one_ulp_noise_rel"]
    assert_near(np.asarray(logits), expected["train_bn"], tolerance)


def test_every_stage_equals_timm(filled, golden):
    """Finds the first wrong stage, where the logits only say that there is one."""
    expected = golden("effnetv2_models")["effnetv2_b0"]
    model = create_model("effnetv2_b0", num_classes=1000)
    forward = jax.jit(
        functools.partial(
            model.apply,
            train=False,
            capture="all",
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: (
                module.name in {"stem_bn", "final_bn"}
            ),
        )
    )
    variables = filled("effnetv2_b0", expected["gain_g"])
    found, state = forward(variables, golden_images(64))
    stem, head = (
        jax.nn.silu(state["intermediates"][name]["__call__"][0])
        for name in ("stem_bn", "final_bn")
    )
    # timm counts the stages from 0.
    maps = {"stem": stem, **{f"stage{i}": found[f"stage{i + 1}"] for i in range(6)}}
    maps["head"] = head
    stages = expected["stages_eval_gain_g"]["64"]
    assert maps.keys() == stages.keys()
    for name, values in stages.items():
        x, std = np.asarray(maps[name]), values["std"]
        assert list(x.shape) == values["shape_nhwc"], name
        assert x.mean() == pytest.approx(values["mean"], abs=1e-4 * std), name
        assert x.std() == pytest.approx(std, rel=1e-4), name
        first = values["first8_at_0_0"]
        np.testing.assert_allclose(x[0, 0, 0, :8], first, atol=1e-4 * std, err_msg=name)


@pytest.mark.parametrize(
    ("width", "upper_limit", "channels"),
    [
        (1.0, False, {32: 32, 12: 16, 3: 8, 1280: 1280}),
        (1.1, False, {1280: 1408, 32: 32, 16: 16, 48: 56, 192: 208}),
        # 16 * 1.2 = 19.2: 16 is under 90 % of it.
        (1.2, False, {1280: 1536, 16: 16, 32: 40, 24: 32}),
        (1.2, True, {1280: 1536, 16: 24, 32: 40, 24: 32}),
        (1.4, True, {1280: 1792, 32: 48, 16: 24}),
        (1.6, True, {1280: 2048}),
        (1.8, True, {1280: 2304}),
        (2.0, True, {1280: 2560}),
        (2.2, True, {1280: 2816}),
        (4.3, True, {1280: 5504}),
    ],
)
def test_channels_are_rounded_as_officially(width, upper_limit, channels):
    found = {c: round_filters(c, width, upper_limit=upper_limit) for c in channels}
    assert found == channels


def test_repeats_are_rounded_up():
    assert [round_repeats(r, 1.1) for r in (1, 2, 3, 10)] == [2, 3, 4, 11]
    assert [round_repeats(r, 1.0) for r in (1, 2, 3)] == [1, 2, 3]


def test_stem_widths():
    def stem(name):
        return blocks(get_variant(name), 0.0)[0].in_channels

    assert [stem(f"effnetv2_{v}") for v in ("b0", "b3", "s", "m", "l", "xl")] == [
        32,
        40,
        24,
        24,
        32,
        32,
    ]


def test_stochastic_depth_grows_over_all_blocks():
    """Survival 1 - 0.2 * i / n, with i from 0 over blocks without a shortcut too."""
    for name, count in (("effnetv2_b0", 21), ("effnetv2_xl", 100), ("effnet_l2", 88)):
        row = get_variant(name)
        rates = [b.stochastic_depth_rate for b in blocks(row, 0.2)]
        assert row.stochastic_depth_rate == 0.2
        np.testing.assert_allclose(rates, 0.2 * np.arange(count) / count, rtol=1e-12)


def test_shortcuts_are_where_the_shape_stays():
    shortcuts = {
        name: [b.has_residual for b in blocks(get_variant(name), 0.0)]
        for name in ("effnetv2_b0", "effnetv2_s", "effnet_b0")
    }
    assert shortcuts["effnetv2_b0"][:4] == [False, False, True, False]
    assert shortcuts["effnetv2_s"][:4] == [True, True, False, True]
    assert shortcuts["effnet_b0"] == [
        bool(j) for depth in (1, 2, 2, 3, 3, 4, 1) for j in range(depth)
    ]


def test_fused_first_block_gates_its_input():
    """SE of a block with expansion 1 stands before its convolution: 48 channels."""
    model = create_model("effnet_b4_fused_1_3", num_classes=10)
    params = abstract_variables(model, 32)["params"]
    block = params["stage1_block0"]
    assert block["squeeze_excite"]["reduce"]["kernel"].shape == (48, 12)
    assert block["squeeze_excite"]["expand"]["kernel"].shape == (12, 48)
    assert block["project_conv"]["kernel"].shape == (3, 3, 48, 24)
    assert params["stage3_block0"]["expand_conv"]["kernel"].shape[:2] == (3, 3)
    assert "depthwise_conv" in params["stage4_block0"]


def test_fused_policies():
    def parts(**policies):
        row = get_variant("effnet_b4_fused_1_7", **policies)
        specs = {b.name: b for b in blocks(row, 0.0)}
        first = [specs[f"stage{i}_block0"] for i in range(1, 8)]
        return [b.kernel for b in first], [b.se_channels is not None for b in first]

    kernels, has_se = parts()
    assert kernels == [3, 3, 3, 3, 5, 5, 3]
    assert has_se == [True] * 5 + [False] * 2
    kernels, has_se = parts(fused_kernel="keep", fused_se="drop")
    assert kernels == [3, 3, 5, 3, 5, 5, 3]
    assert has_se == [False] * 7
    assert parts(fused_se="keep")[1] == [True] * 7


def test_initial_values():
    """Normal with fan-out, 1 for depthwise; uniform from the number of classes."""
    stages = ("r1_k3_s2_e6_i32_o112", "r2_k5_s2_e6_i112_o192_se0.25")
    model = create_model("effnet_b0", num_classes=1000, stages=stages)
    params = init_variables(model, jax.random.key(1))["params"]
    flat = traverse_util.flatten_dict(params, sep="/")
    std = {
        "stem_conv/kernel": (2 / (9 * 32)) ** 0.5,
        "final_conv/kernel": (2 / 1280) ** 0.5,
        "stage2_block1/expand_conv/kernel": (2 / 1152) ** 0.5,
        "stage2_block1/project_conv/kernel": (2 / 192) ** 0.5,
        "stage2_block1/depthwise_conv/kernel": (2 / 25) ** 0.5,
        "stage1_block0/depthwise_conv/kernel": (2 / 9) ** 0.5,
        "stage2_block1/squeeze_excite/reduce/kernel": (2 / 48) ** 0.5,
        "stage2_block1/squeeze_excite/expand/kernel": (2 / 1152) ** 0.5,
        "head/kernel": (1 / 3) ** 0.5 / 1000**0.5,
    }
    for name, value in std.items():
        size = flat[name].size
        assert flat[name].std() == pytest.approx(value, rel=4 / size**0.5), name
    # Not cut at two standard deviations, where a uniform law ends at 1.7.
    kernel = flat["final_conv/kernel"]
    assert jnp.abs(kernel).max() > 3.5 * std["final_conv/kernel"]
    head = jnp.abs(flat["head/kernel"]).max() * 1000**0.5
    assert 0.999 < head <= 1
    for name, value in flat.items():
        if name.endswith("bias"):
            assert not value.any(), name
        elif name.endswith("scale"):
            assert (value == 1).all(), name


def test_bfloat16_keeps_parameters_statistics_and_logits_in_float32(tiny):
    model, variables = tiny
    images = golden_images(32)
    half = model.clone(dtype=jnp.bfloat16, drop_rate=0.0, stochastic_depth_rate=0.0)

    @functools.partial(jax.jit, static_argnums=0)
    def forward(model, variables, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    logits, state = forward(half, variables, images)
    dtypes = {x.dtype for x in jax.tree.leaves((logits, variables, state))}
    assert dtypes == {jnp.dtype("float32")}
    exact, _ = forward(half.clone(dtype=jnp.float32), variables, images)
    assert jnp.abs(logits - exact).max() < 0.1 * exact.std()
    assert (logits != exact).any()


@pytest.mark.parametrize(("name", "new"), [("effnetv2_s", 0.1), ("effnet_b0", 0.01)])
def test_running_averages_move_by_one_minus_momentum(name, new):
    """From mean 0 and variance 1; the batch's variance is the biased one."""
    model = create_model(name, num_classes=10, **TINY)
    variables = init_variables(model, jax.random.key(0))
    model = model.clone(drop_rate=0.0, stochastic_depth_rate=0.0)
    images = golden_images(16)
    _, state = model.apply(
        variables,
        images,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: module.name == "stem_conv",
    )
    (x,) = state["intermediates"]["stem_conv"]["__call__"]
    stats = state["batch_stats"]["stem_bn"]
    mean, var = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
    np.testing.assert_allclose(stats["mean"], new * mean, atol=1e-6)
    np.testing.assert_allclose(stats["var"], 1 - new + new * var, rtol=1e-5)


def test_training_draws_dropout_and_stochastic_depth(tiny):
    model, variables = tiny
    images = golden_images(32)
    model = model.clone(stochastic_depth_rate=0.9)

    def logits(model, seed):
        rngs = dict(
            zip(
                ("dropout", "stochastic_depth"),
                jax.random.split(jax.random.key(seed)),
                strict=True,
            )
        )
        found, _ = model.apply(
            variables, images, train=True, rngs=rngs, mutable=["batch_stats"]
        )
        return found

    chex.assert_trees_all_equal(logits(model, 0), logits(model, 0))
    assert (logits(model, 0) != logits(model, 1)).any()
    without = model.clone(stochastic_depth_rate=0.0, drop_rate=0.0)
    chex.assert_trees_all_equal(logits(without, 0), logits(without, 1))
    assert (logits(without.clone(drop_rate=0.5), 0) != logits(without, 0)).any()


def test_stochastic_depth_divides_what_it_keeps_by_the_blocks_survival(tiny):
    model, variables = tiny
    model = model.clone(stochastic_depth_rate=0.8, drop_rate=0.0)
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)
    names = [b.name for b in blocks(model.variant, 0.8)]
    _, state = model.apply(
        variables,
        images,
        train=True,
        rngs={"stochastic_depth": jax.random.key(0)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda module, _: (
            module.name in {*names, "stochastic_depth"}
        ),
    )
    found = state["intermediates"]
    kept_of = {
        n: found[n]["stochastic_depth"] for n in names if "stochastic_depth" in found[n]
    }
    assert list(kept_of) == [names[i] for i in (0, 1, 3, 6)]
    for name, captured in kept_of.items():
        (kept,), survival = captured["__call__"], 1 - 0.8 * names.index(name) / 7
        ((_, residual),) = found[name]["__call__"]
        is_kept = np.abs(kept).max(axis=(1, 2, 3)) > 0
        expected = np.where(is_kept[:, None, None, None], residual / survival, 0)
        np.testing.assert_allclose(kept, expected, rtol=1e-5)
        assert is_kept.any()
        assert is_kept.all() == (name == names[0])


def test_probes_of_signal_propagation(tiny):
    """BatchNorm ends every residual at variance 1, less epsilon's share.

    But for the fused ones with expansion 1, which a SiLU ends: of a unit normal, 0.36.
    """
    model, variables = tiny
    images = jax.random.normal(jax.random.key(2), (8, 32, 32, 3))
    signal = signal_propagation(model, variables, images)
    assert signal.avg_var.shape == (8,)
    np.testing.assert_allclose(signal.res_avg_var[2:], 0.99, atol=0.01)
    assert signal.res_avg_var[0] == pytest.approx(
        0.36, abs=0.1
    )  # SiLU of a unit normal


def test_small_images_keep_the_size_of_the_stem():
    model = create_model("effnetv2_b0", num_classes=10, stem_stride=1)
    found = jax.eval_shape(
        lambda x: model.init_with_output(
            jax.random.key(0),
            x,
            train=False,
            capture_intermediates=lambda module, _: module.name == "stem_conv",
            mutable=True,
        ),
        jnp.zeros((1, 32, 32, 3)),
    )
    (stem,) = found[1]["intermediates"]["stem_conv"]["__call__"]
    assert stem.shape == (1, 32, 32, 32)


def test_rows_of_the_official_tables():
    names = [f"effnetv2_{v}" for v in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")]
    rows = [get_variant(name) for name in names]
    assert [r.train_size for r in rows] == [192, 192, 208, 240, 300, 384, 384, 384]
    assert [r.eval_size for r in rows] == [224, 240, 260, 300, 384, 480, 480, 512]
    assert [r.drop_rate for r in rows] == [0.2, 0.2, 0.3, 0.3, 0.2, 0.3, 0.4, 0.4]
    assert {r.bn_momentum for r in rows} == {0.9}
    rows = [get_variant(f"effnet_{v}") for v in (*(f"b{i}" for i in range(9)), "l2")]
    sizes = [224, 240, 260, 300, 380, 456, 528, 600, 672, 800]
    assert [r.train_size for r in rows] == [r.eval_size for r in rows] == sizes
    drop = [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5, 0.5, 0.5]
    assert [r.drop_rate for r in rows] == drop
    assert {r.bn_momentum for r in rows} == {0.99}
    fused = [f"effnet_b4_fused_1_{last}" for last in (3, 5, 7)]
    assert list_models("effnet_*_fused*") == fused
    assert [get_variant(name).fused_stages for name in fused] == [3, 5, 7]


def test_stages_can_be_overridden_as_json_has_them():
    stages = ["r1_k3_s2_e4_i16_o32_c1", "r1_k5_s2_e6_i32_o64_se0.25"]
    model = create_model("effnetv2_b0", num_classes=10, stages=stages)
    assert model.variant.stages == tuple(stages)
    names = [spec.name for spec in blocks(model.variant, 0.0)]
    assert names == ["stage1_block0", "stage2_block0"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stages": ()}, "at least one group"),
        ({"stages": ("r0_k3_s1_e1_i8_o8",)}, "r0 should be at least r1"),
        ({"stages": ("r1_k3_s1_e1_i8_o8", "r1_k3_s1_e1_i9_o8")}, "write i8"),
        ({"stages": (3,)}, "stages"),
        ({"fused_stages": 8}, r"fused_stages 8 should be from 0 to 6"),
        ({"fused_kernel": "3"}, "unknown fused_kernel '3'; known: fit, keep"),
        ({"fused_se": "kept"}, r"unknown fused_se 'kept'; did you mean keep"),
        ({"width": 0.0}, "width 0.0 should be more than 0"),
        ({"depth": -1.0}, "depth -1.0 should be more than 0"),
        ({"stem_stride": 0}, "stem_stride 0"),
        ({"bn_momentum": 1.0}, r"bn_momentum 1.0 should be in \[0, 1\)"),
    ],
)
def test_impossible_rows_are_refused(overrides, message):
    with pytest.raises(UserError, match=message):
        create_model("effnetv2_b0", num_classes=10, **overrides)
