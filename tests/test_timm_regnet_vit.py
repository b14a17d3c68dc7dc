"""State dicts of timm's RegNetY and vision transformers: names, layouts, order."""

from __future__ import annotations

import hashlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from golden_fill import timm_arrays

from nfnets.errors import UserError
from nfnets.weights import convert_timm, export_timm, load_weights, save_weights
from nfnets.weights.timm import timm_shapes

MODELS = ["regnety_4gf", "regnety_8gf", "regnety_16gf", "regnety_32gf"]
MODELS += ["deit_ti", "deit_s", "vit_b"]
SMALL = {
    "regnety_4gf": {"w0": 16, "wa": 8.0, "wm": 2.0, "depth": 3, "group_width": 8},
    # 224 is no multiple of this patch.
    "deit_ti": {"width": 16, "heads": 2, "depth": 11, "patch": 5, "train_size": 20},
}


def arrays_of(name):
    shapes = timm_shapes(name, 10, overrides=SMALL[name])
    return timm_arrays({a.name: a.shape for a in shapes})


@pytest.mark.parametrize("name", MODELS)
def test_names_shapes_and_order_equal_timms(name, golden):
    expected = golden("timm_regnet_vit")
    found = [[a.name, list(a.shape)] for a in timm_shapes(name)]
    if name in expected["state_dicts"]:
        assert found == expected["state_dicts"][name]
    lines = "\n".join(f"{their_name} {shape}" for their_name, shape in found)
    sha256 = hashlib.sha256(lines.encode()).hexdigest()
    assert sha256 == expected["counts"][name]["sha256"]


def test_layouts_of_regnet_by_hand():
    arrays = arrays_of("regnety_4gf")
    overrides = SMALL["regnety_4gf"]
    variables = convert_timm("regnety_4gf", arrays, overrides=overrides)
    params, stats = variables["params"], variables["batch_stats"]
    block = params["stage2_block0"]
    grouped = block["conv2"]["kernel"]
    assert grouped.shape == (3, 3, 8, 32)
    theirs = arrays["s2.b1.conv2.conv.weight"]
    np.testing.assert_array_equal(grouped, theirs.transpose(2, 3, 1, 0))
    matrix = arrays["s2.b1.se.fc1.weight"][:, :, 0, 0]
    np.testing.assert_array_equal(block["squeeze_excite"]["reduce"]["kernel"], matrix.T)
    np.testing.assert_array_equal(
        stats["stage2_block1"]["bn3"]["var"], arrays["s2.b2.conv3.bn.running_var"]
    )
    np.testing.assert_array_equal(
        block["shortcut_bn"]["bias"], arrays["s2.b1.downsample.bn.bias"]
    )
    matrix = arrays["head.fc.weight"]
    np.testing.assert_array_equal(params["head"]["kernel"], matrix.T)


def test_layouts_of_vit_by_hand():
    arrays = arrays_of("deit_ti")
    variables = convert_timm("deit_ti", arrays, overrides=SMALL["deit_ti"])
    assert variables.keys() == {"params"}
    params = variables["params"]
    np.testing.assert_array_equal(params["pos_embed"], arrays["pos_embed"][0])
    np.testing.assert_array_equal(params["cls_token"], arrays["cls_token"][0, 0])
    np.testing.assert_array_equal(
        params["patch_embed"]["kernel"],
        arrays["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
    )
    np.testing.assert_array_equal(
        params["block10"]["attention"]["qkv"]["kernel"],
        arrays["blocks.10.attn.qkv.weight"].T,
    )
    np.testing.assert_array_equal(params["final_norm"]["scale"], arrays["norm.weight"])


@pytest.mark.parametrize("name", SMALL)
def test_round_trip_through_files_of_every_form(name, tmp_path):
    """The .npz, which is measured before it is read, and our own form."""
    arrays, overrides = arrays_of(name), SMALL[name]
    np.savez(tmp_path / "theirs.npz", **arrays)
    variables = load_weights(name, tmp_path / "theirs.npz", overrides=overrides)
    ours = tmp_path / "ours.safetensors"
    save_weights(name, variables, ours, overrides=overrides)
    safetensors.numpy.save_file(
        export_timm(name, load_weights(name, ours, overrides=overrides)),
        tmp_path / "theirs.safetensors",
    )
    loaded = load_weights(name, tmp_path / "theirs.safetensors", overrides=overrides)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype("float32")}
    back = export_timm(name, loaded)
    assert list(back) == list(arrays)
    for their_name, array in arrays.items():
        np.testing.assert_array_equal(back[their_name], array, err_msg=their_name)


def test_another_networks_arrays_are_refused_by_name():
    arrays = arrays_of("deit_ti")
    with pytest.raises(UserError, match=r"'head.fc.bias' is missing"):
        convert_timm("regnety_4gf", arrays)
    overrides = SMALL["deit_ti"] | {"train_size": 40}
    with pytest.raises(UserError, match=r"pos_embed \(1, 17, 16\) instead of"):
        convert_timm("deit_ti", arrays, overrides=overrides)
