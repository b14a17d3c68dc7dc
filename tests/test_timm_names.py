"""State dicts of timm: names, layouts, and what is said of others."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import safetensors.numpy
from golden_fill import timm_arrays

from nfnets.errors import UserError
from nfnets.weights import convert_timm, export_timm, load_weights
from nfnets.weights.timm import timm_shapes

MODELS = ["effnetv2_b0", "effnetv2_s", "effnet_b0"]
NAME = "effnetv2_b0"
# All four kinds of block.
OVERRIDES = {
    "stages": (
        "r1_k3_s1_e1_i8_o8_c1",
        "r1_k3_s2_e2_i8_o16_se0.25_c1",
        "r1_k5_s1_e1_i16_o8_se0.25",
        "r2_k3_s2_e2_i8_o8_se0.25",
    ),
    "head_channels": 24,
}


@pytest.fixture(scope="module")
def arrays():
    """Of a small network with 10 classes."""
    shapes = timm_shapes(NAME, 10, overrides=OVERRIDES)
    return timm_arrays({a.name: a.shape for a in shapes})


@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_order_equal_timms(name, golden):
    found = [[a.name, list(a.shape)] for a in timm_shapes(name)]
    assert found == golden("effnetv2_param_lists")[name]


def test_layouts_by_hand(arrays):
    variables = convert_timm(NAME, arrays, overrides=OVERRIDES)
    params, stats = variables["params"], variables["batch_stats"]

    def same(ours, name, axes=None):
        theirs = arrays[name]
        if axes is not None:
            theirs = theirs.transpose(axes)
        np.testing.assert_array_equal(ours, theirs)

    last = params["stage4_block1"]
    same(params["stem_conv"]["kernel"], "conv_stem.weight", (2, 3, 1, 0))
    same(last["depthwise_conv"]["kernel"], "blocks.3.1.conv_dw.weight", (2, 3, 1, 0))
    assert last["depthwise_conv"]["kernel"].shape == (3, 3, 1, 16)
    matrix = arrays["blocks.3.1.se.conv_expand.weight"][:, :, 0, 0]
    np.testing.assert_array_equal(last["squeeze_excite"]["expand"]["kernel"], matrix.T)
    same(last["squeeze_excite"]["expand"]["bias"], "blocks.3.1.se.conv_expand.bias")
    same(params["head"]["kernel"], "classifier.weight", (1, 0))
    same(last["project_bn"]["scale"], "blocks.3.1.bn3.weight")
    same(stats["stage3_block0"]["project_bn"]["var"], "blocks.2.0.bn2.running_var")
    first = params["stage1_block0"]["project_conv"]["kernel"]
    same(first, "blocks.0.0.conv.weight", (2, 3, 1, 0))
    same(stats["final_bn"]["mean"], "bn2.running_mean")


def test_round_trip(arrays):
    variables = convert_timm(NAME, arrays, overrides=OVERRIDES)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    back = export_timm(NAME, variables)
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)
    assert back["bn1.num_batches_tracked"].dtype == np.int64


def test_counters_may_be_absent_or_have_an_axis(arrays):
    without = {n: a for n, a in arrays.items() if "num_batches" not in n}
    with_axis = without | {"bn1.num_batches_tracked": np.array([7])}
    assert len(without) < len(arrays)
    expected = convert_timm(NAME, arrays, overrides=OVERRIDES)
    for other in (without, with_axis):
        found = convert_timm(NAME, other, overrides=OVERRIDES)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_other_arrays_are_refused_by_name(arrays):
    def refusal(changed):
        with pytest.raises(UserError) as error:
            convert_timm(NAME, changed, overrides=OVERRIDES)
        assert "\n" not in str(error.value)
        return str(error.value)

    missing = {n: a for n, a in arrays.items() if n != "bn2.running_var"}
    assert "1 missing: bn2.running_var" in refusal(missing)
    more = arrays | {"blocks.0.0.bn9.weight": np.ones(3)}
    assert "1 unexpected: blocks.0.0.bn9.weight" in refusal(more)
    turned = arrays | {"conv_stem.weight": arrays["conv_stem.weight"].T}
    assert "conv_stem.weight (3, 3, 3, 8) instead of (8, 3, 3, 3)" in refusal(turned)
    headless = {n: a for n, a in arrays.items() if "classifier" not in n}
    assert "'classifier.bias' is missing" in refusal(headless)
    with pytest.raises(UserError, match=r"nf_resnet50 has no weights of timm"):
        convert_timm("nf_resnet50", arrays)


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_files_with_timms_names_load(suffix, arrays, tmp_path):
    path = tmp_path / f"model.{suffix}"
    if suffix == "npz":
        np.savez(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    loaded = load_weights(NAME, path, overrides=OVERRIDES)
    expected = convert_timm(NAME, arrays, overrides=OVERRIDES)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    with pytest.raises(UserError, match=r"model\.\w+: not the weights of effnet_b0"):
        load_weights("effnet_b0", path)
