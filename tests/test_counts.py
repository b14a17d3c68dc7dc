"""Parameters, multiply-adds and block attributes of all variants, official numbers."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import pytest

from nfnets.conv import conv2d
from nfnets.flops import (
    abstract_variables,
    count,
    count_jaxpr,
    count_macs,
    count_params,
    count_params_of,
)
from nfnets.registry import create_model, family_of, get_variant, list_models

F_SERIES = [f"nfnet_f{i}{plus}" for plus in ("", "_plus") for i in range(8)]
REGNETS = [f"nf_regnet_b{i}" for i in range(9)]
RESNETS = [f"nf_resnet{n}" for n in (50, 101, 152, 200, 288, 600)]
SE_RESNETS = [f"nf_seresnet{n}" for n in (50, 101, 152, 200)]
BASELINES = [
    name.format(n)
    for name in ("dm_resnet{}", "dm_resnet{}_postact", "skipinit_resnet{}")
    for n in (50, 101, 152, 200, 288, 600)
] + [f"fixup_resnet{n}" for n in (50, 101, 152, 200, 288, 600)]


EFFICIENTNETS = [
    *(f"effnetv2_{v}" for v in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")),
    *(f"effnet_b{i}" for i in range(9)),
    "effnet_l2",
]


def golden_macs(counts, name, size):
    return counts[name]["macs"][str(size)]


@pytest.mark.parametrize("name", F_SERIES)
def test_nfnet_parameters_and_macs_at_both_sizes(name, golden):
    expected, row = golden("nfnet_counts"), get_variant(name)
    assert set(expected[name]["macs"]) == {str(row.train_size), str(row.eval_size)}
    for size in (row.train_size, row.eval_size):
        counts = count(create_model(name, num_classes=1000), size)
        assert counts.params == expected[name]["params"]
        assert counts.macs == golden_macs(expected, name, size)


@pytest.mark.parametrize("name", REGNETS)
def test_nf_regnet_parameters_and_macs(name, golden):
    """The official counter keeps fractional feature maps; at multiples of 32 none are.

    Its count is then a * size^2 + c, which ours is at such sizes; hence a and c.
    """
    expected = golden("nfnet_counts")
    model = create_model(name, num_classes=1000)
    small, large = count(model, 32), count(model, 64)
    assert small.params == expected[name]["params"]
    per_pixel = (large.macs - small.macs) / (64**2 - 32**2)
    constant = small.macs - per_pixel * 32**2
    row = get_variant(name)
    for size in (row.train_size, row.eval_size):
        official = golden_macs(expected, name, size)
        assert per_pixel * size**2 + constant == pytest.approx(official, rel=1e-9)


@pytest.mark.parametrize("name", RESNETS + SE_RESNETS + BASELINES)
def test_resnet_parameters(name, golden):
    assert count_params(name) == golden("nfnet_counts")[name]["params"]


@pytest.mark.parametrize("name", ["dm_resnet50", "dm_resnet101_postact"])
def test_batch_statistics_are_the_official_state(name, golden):
    """Officially a scalar counter and two vectors (hidden, average) per statistic."""
    variables = abstract_variables(create_model(name, num_classes=10), 32)
    stats = [leaf.shape for leaf in jax.tree.leaves(variables["batch_stats"])]
    official = golden("nfnet_counts")[name]["state"]
    assert sum(1 + 2 * channels for (channels,) in stats) == official
    assert "batch_stats" not in abstract_variables(
        create_model("fixup_resnet50", num_classes=10), 32
    )


@pytest.mark.parametrize("name", [n for n in BASELINES if "resnet50" in n])
def test_baseline_macs_by_hand(name):
    """ResNet-50 at 224 px: the stem makes 112 px, its pool 56.

    Per block a 1x1 at the input's size; 3x3, 1x1 and projection at the output's.
    """
    macs, size, in_ch = 112**2 * 7 * 7 * 3 * 64, 56, 64
    for depth, out_ch, stride in ((3, 256, 1), (4, 512, 2), (6, 1024, 2), (3, 2048, 2)):
        width = out_ch // 4
        macs += size**2 * in_ch * width
        size //= stride
        macs += size**2 * (9 * width**2 + width * out_ch + in_ch * out_ch)
        later = out_ch * width + 9 * width**2 + width * out_ch
        macs += (depth - 1) * size**2 * later
        in_ch = out_ch
    assert count_macs(name) == macs + 2048 * 1000


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_efficientnet_parameters_blocks_and_macs(name, golden):
    expected, row = golden("effnetv2_counts")[name], get_variant(name)
    assert row.eval_size == expected["eval_size"]
    counts = count(create_model(name, num_classes=1000), row.eval_size)
    assert counts.params == expected["params"]
    assert round(counts.macs / 1e9, 4) == expected["gmacs"]
    family = importlib.import_module(family_of(name))
    assert len(family.blocks(row, 0.0)) == expected["blocks"]


def test_rule_of_90_percent_matters_for_v1_b3(golden):
    """16 channels times 1.2 are 24 in the original code, 16 in V2's."""
    assert golden("effnetv2_counts")["effnet_b3"]["params"] == 12_233_232
    model = create_model("effnet_b3", num_classes=1000, round_up_limit=False)
    assert count_params_of(model) == 12_227_212


@pytest.mark.parametrize(
    ("policy", "overrides"),
    [
        ("fit", {}),
        ("keep_kernel_drop_se", {"fused_kernel": "keep", "fused_se": "drop"}),
    ],
)
@pytest.mark.parametrize("last", ["3", "5", "7"])
def test_fused_b4_counts_as_by_hand(last, policy, overrides, golden):
    fused = golden("effnetv2_counts")["fused"]
    name = f"effnet_b4_fused_1_{last}"
    counts = count(create_model(name, num_classes=1000, **overrides), 380)
    params, gmacs = fused[policy][last]
    assert round(counts.params / 1e6, 2) == params
    assert counts.macs / 1e9 == pytest.approx(gmacs, abs=0.05)
    if policy == "fit":
        paper_params, paper_flops = fused["paper"][last]
        assert counts.params / 1e6 == pytest.approx(paper_params, rel=0.01)
        assert counts.macs / 1e9 == pytest.approx(paper_flops, rel=0.035)


def test_macs_at_other_sizes(golden):
    counts = golden("nfnet_counts")
    assert count_macs("nfnet_f0", 192) == golden_macs(counts, "nfnet_f0", 192)
    assert count_macs("nfnet_f1") == 35_538_968_576  # 2102.06171: 35.54 B
    assert count_macs("nf_regnet_b0", 224) == golden_macs(counts, "nf_regnet_b0", 224)


def test_every_variant_has_a_golden_row(golden):
    official = set(golden("nfnet_counts")) - {"_source"}
    ours = {*F_SERIES, *REGNETS, *RESNETS, *SE_RESNETS}
    assert ours | set(BASELINES) == official
    # The goldens stop at 200 layers for the models with SE.
    assert set(list_models("nf*")) == ours | {"nf_seresnet288", "nf_seresnet600"}
    kinds = ("dm_*", "skipinit_*", "fixup_*")
    assert {name for kind in kinds for name in list_models(kind)} == set(BASELINES)
    efficientnets = set(golden("effnetv2_counts")) - {"_source", "fused"}
    assert efficientnets == set(EFFICIENTNETS)
    fused = {f"effnet_b4_fused_1_{last}" for last in (3, 5, 7)}
    assert set(list_models("effnet*")) == efficientnets | fused


@pytest.mark.parametrize(
    "name", ["nfnet_f0", "nf_regnet_b0", "nf_regnet_b1", "nf_resnet50"]
)
def test_block_table(name, golden):
    expected = golden("nfnet_counts")[name]
    family = importlib.import_module(family_of(name))
    rate = expected["stochastic_depth_rate"]
    assert get_variant(name).stochastic_depth_rate == rate
    specs = family.blocks(get_variant(name), rate)
    assert len(specs) == len(expected["blocks"])
    for spec, block in zip(specs, expected["blocks"], strict=True):
        assert (spec.in_channels, spec.out_channels, spec.width, spec.stride) == (
            block["in_ch"],
            block["out_ch"],
            block["width"],
            block["stride"],
        )
        assert spec.groups == (block["groups"] or 1)
        assert spec.has_projection == block["proj"]
        assert spec.beta == pytest.approx(block["beta"], rel=1e-12)
        assert spec.stochastic_depth_rate == pytest.approx(block["sd"], rel=1e-12)
        assert get_variant(name).alpha == block["alpha"]


def test_overridden_network_counts_by_hand():
    model = create_model(
        "nf_resnet50",
        num_classes=10,
        depths=(1,),
        widths=(16,),
        strides=(1,),
        stem_channels=8,
        stem_kernel=3,
        stem_stride=1,
        stem_pool=False,
    )
    weights = {"stem": 3 * 3 * 3 * 8, "shortcut": 8 * 16, "conv0": 8 * 4}
    weights |= {"conv1": 3 * 3 * 4 * 4, "conv2": 4 * 16}
    gains_and_biases = 2 * (8 + 16 + 4 + 4 + 16)
    head = 16 * 10
    params = sum(weights.values()) + gains_and_biases + 1 + head + 10
    assert count_params_of(model) == params
    macs = 64 * sum(weights.values()) + head
    activations = 64 * (8 + 16 + 4 + 4 + 16) + 10
    assert count(model, 8) == (params, macs, activations)


def test_forms_of_one_grouped_convolution_count_alike():
    x, kernel = jnp.zeros((1, 9, 9, 128)), jnp.zeros((3, 3, 64, 256))
    for form in ("native", "split"):
        traced = jax.make_jaxpr(
            lambda x, k, form=form: conv2d(x, k, strides=2, groups=2, form=form)
        )(x, kernel)
        assert count_jaxpr(traced.jaxpr) == (5 * 5 * 256 * 9 * 64, 5 * 5 * 256)


def test_count_enters_scan_jit_cond_and_checkpoint():
    matrix = jnp.zeros((4, 4))

    def step(x, _):
        return jax.checkpoint(lambda x: jnp.tanh(x @ matrix))(x), None

    def forward(x):
        x, _ = jax.lax.scan(step, x, length=3)
        x = jax.jit(lambda x: x @ matrix)(x)
        return jax.lax.cond(x.sum() > 0, lambda x: x @ matrix, lambda x: x, x)

    traced = jax.make_jaxpr(forward)(jnp.zeros((2, 4)))
    runs = 3 + 1 + 1
    assert count_jaxpr(traced.jaxpr) == (2 * 4 * 4 * runs, 2 * 4 * runs)
