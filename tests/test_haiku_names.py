"""Official names of the parameters, and conversion from and to them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from golden_fill import golden_arrays

from nfnets.errors import UserError
from nfnets.weights import convert_haiku, export_haiku
from nfnets.weights.haiku import official_shapes

FIRST_BLOCKS = ["nfnet_f0", "nf_regnet_b0", "nf_resnet50", "nf_seresnet50"]
# The released files hold this many modules and arrays (an independent converter
# recognises them by it).
RELEASED = {"nfnet_f0": (94, 233), "nfnet_f1": (178, 437), "nfnet_f2": (262, 641)}


@pytest.fixture(scope="session")
def regnet_arrays(golden):
    return golden_arrays(golden("nfnet_param_lists")["nf_regnet_b0"])


@pytest.mark.parametrize("name", FIRST_BLOCKS)
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
