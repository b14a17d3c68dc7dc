"""Official names of the parameters, and conversion from and to them."""

from __future__ import annotations

import chex
import jax
import numpy as np
import pytest
from golden_fill import golden_arrays

from nfnets.errors import UserError
from nfnets.weights import convert_haiku, export_haiku
from nfnets.weights.haiku import official_shapes

MODELS = [
    "nfnet_f0",
    "nf_regnet_b0",
    "nf_resnet50",
    "nf_seresnet50",
    "dm_resnet50",
    "dm_resnet50_postact",
    "skipinit_resnet50",
    "fixup_resnet50",
]
# The released files hold this many modules and arrays (an independent converter
# recognises them by it).
RELEASED = {"nfnet_f0": (94, 233), "nfnet_f1": (178, 437), "nfnet_f2": (262, 641)}


@pytest.fixture(scope="session")
def regnet_arrays(golden):
    return golden_arrays(golden("nfnet_param_lists")["nf_regnet_b0"])


@pytest.fixture(scope="session")
def batch_norm_arrays(golden):
    """Parameters and state of the BatchNorm ResNet-50."""
    return golden_arrays(golden("nfnet_param_lists")["dm_resnet50"])


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_equal_the_official_list(name, golden):
    expected = {n: tuple(s) for n, s in golden("nfnet_param_lists")[name].items()}
    assert {n: s for n, s, _ in official_shapes(name)} == expected


@pytest.mark.parametrize("name", list(RELEASED))
def test_module_and_array_counts_of_released_files(name):
    names = [n for n, _, _ in official_shapes(name)]
    modules = {n.rsplit("/", 1)[0] for n in names}
    assert (len(modules), len(set(names))) == RELEASED[name]


def test_blocks_are_numbered_through_all_stages():
    """Block 10 of F0 is the second of stage 4: 1, 2, 6 and 3 blocks."""
    paths = {n: path for n, _, path in official_shapes("nfnet_f0")}
    gain = paths["NFNet/~/nf_block_10/skip_gain"]
    assert gain == ("params", "stage4_block1", "skip_gain")
    assert paths["NFNet/~/nf_block/skip_gain"][1] == "stage1_block0"


def test_round_trip(regnet_arrays):
    variables = convert_haiku("nf_regnet_b0", regnet_arrays)
    assert set(variables) == {"params"}
    back = export_haiku("nf_regnet_b0", variables)
    assert set(back) == set(regnet_arrays)
    for name, array in regnet_arrays.items():
        np.testing.assert_array_equal(back[name], array)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


@pytest.mark.parametrize("name", ["skipinit_resnet50", "fixup_resnet50"])
def test_round_trip_of_biases_and_scalars(name, golden):
    arrays = golden_arrays(golden("nfnet_param_lists")[name])
    variables = convert_haiku(name, arrays)
    assert set(variables) == {"params"}
    back = export_haiku(name, variables)
    assert set(back) == set(arrays)
    for official, array in arrays.items():
        np.testing.assert_array_equal(back[official], array)


def test_round_trip_with_batch_statistics(batch_norm_arrays):
    variables = convert_haiku("dm_resnet50", batch_norm_arrays)
    assert set(variables) == {"params", "batch_stats"}
    stats = variables["batch_stats"]["stage2_block0"]["bn1"]
    module = "ResNet/~/res_block_v2_3/~/bn1/~"
    for ours, official in (("mean", "mean_ema"), ("var", "var_ema")):
        average = batch_norm_arrays[f"{module}/{official}/average"]
        np.testing.assert_array_equal(stats[ours], average.reshape(-1))
    back = export_haiku("dm_resnet50", variables)
    assert set(back) == set(batch_norm_arrays)
    for name, array in batch_norm_arrays.items():
        if name.endswith("/counter"):
            # Officially average = hidden / (1 - 0.9^counter).
            assert back[name].dtype == np.int32
            assert np.float32(1) - np.float32(0.9) ** back[name] == 1
        else:
            np.testing.assert_array_equal(back[name], array)


def test_only_the_averages_of_a_state_are_read(batch_norm_arrays):
    other = {
        name: np.full_like(array, 7) if name.endswith(("hidden", "counter")) else array
        for name, array in batch_norm_arrays.items()
    }
    want = convert_haiku("dm_resnet50", batch_norm_arrays)
    chex.assert_trees_all_equal(convert_haiku("dm_resnet50", other), want)


def test_missing_state_is_named(batch_norm_arrays):
    params = {n: a for n, a in batch_norm_arrays.items() if "_ema/" not in n}
    with pytest.raises(UserError, match=r"294 missing: ResNet/~/final_bn/~/mean_ema/"):
        convert_haiku("dm_resnet50", params)
    gradients = {"params": convert_haiku("dm_resnet50", batch_norm_arrays)["params"]}
    assert set(export_haiku("dm_resnet50", gradients)) == set(params)


def test_number_of_classes_comes_from_the_arrays(regnet_arrays):
    arrays = dict(regnet_arrays)
    arrays["NF_RegNet/~/linear/w"] = np.zeros((960, 7), np.float32)
    arrays["NF_RegNet/~/linear/b"] = np.zeros(7, np.float32)
    params = convert_haiku("nf_regnet_b0", arrays)["params"]
    assert params["head"]["kernel"].shape == (960, 7)


def test_wrong_arrays_are_named(regnet_arrays):
    arrays = dict(regnet_arrays)
    del arrays["NF_RegNet/~/nf_block_3/skip_gain"]
    arrays["NF_RegNet/~/nf_block_99/skip_gain"] = np.zeros(())
    arrays["NF_RegNet/~/initial_conv/gain"] = np.zeros(5)
    with pytest.raises(UserError) as error:
        convert_haiku("nf_regnet_b0", arrays)
    message = str(error.value)
    assert "1 missing: NF_RegNet/~/nf_block_3/skip_gain" in message
    assert "1 unexpected: NF_RegNet/~/nf_block_99/skip_gain" in message
    assert "NF_RegNet/~/initial_conv/gain (5,) instead of (36,)" in message


def test_weights_of_another_family_are_refused(regnet_arrays):
    with pytest.raises(UserError, match="not the weights of nfnet_f0"):
        convert_haiku("nfnet_f0", regnet_arrays)
