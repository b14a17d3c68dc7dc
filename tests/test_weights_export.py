"""Files for timm, DeepMind's code and Keras: what these made of them, and round trips.

``golden/exported_weights.json`` holds the logits that timm and Keras computed with
files of these very arrays, which `export_weights` had written and they had loaded.
"""

from __future__ import annotations

import hashlib
import pickle

import jax
import numpy as np
import pytest
from flax import traverse_util
from golden_fill import golden_images, our_arrays
from helpers import TINY

from nfnets import registry
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.weights import export_weights, load_weights
from nfnets.weights.contents import read_contents

STAGES = (
    "r1_k3_s1_e1_i8_o8_c1",
    "r1_k3_s2_e2_i8_o16_se0.25_c1",
    "r1_k5_s1_e1_i16_o8_se0.25",
    "r2_k3_s2_e2_i8_o8_se0.25",
)
SMALL_EFFNET = {"stages": STAGES, "head_channels": 24}
SMALL_RESNET = {"depths": (1, 1), "widths": (8, 16), "strides": (1, 2)}
SUFFIX = {"timm": ".safetensors", "haiku": ".npz", "keras": ".weights.h5"}


def filled(model, gain=1.0, num_classes=10, **overrides):
    """Variables of a model, all values by their names."""
    network = registry.create_model(model, num_classes=num_classes, **overrides)
    row = registry.get_variant(model, **overrides)
    flat = traverse_util.flatten_dict(
        abstract_variables(network, row.train_size), sep="/"
    )
    shapes = {name: leaf.shape for name, leaf in flat.items()}
    return traverse_util.unflatten_dict(our_arrays(shapes, gain), sep="/")


def digest(path):
    """Of the names, shapes, types and bytes of all arrays in a file."""
    found = hashlib.sha256()
    for name, array in sorted(read_contents(path).arrays.items()):
        found.update(f"{name} {array.shape} {array.dtype} ".encode())
        found.update(array.tobytes())
    return found.hexdigest()


@pytest.mark.parametrize("name", ["resnet18", "effnetv2_b0", "effnet_b0", "rs_shallow"])
def test_other_programs_computed_our_logits_with_these_files(name, golden, tmp_path):
    expected = golden("exported_weights")[name]
    model, overrides = expected["model"], expected["overrides"]
    variables = filled(model, expected["gain"], 1000, **overrides)
    for file, values in expected["files"].items():
        program = "timm" if file.endswith(".safetensors") else "keras"
        path = tmp_path / file
        export_weights(model, variables, path, program, overrides=overrides)
        assert digest(path) == values["arrays_sha256"], file
    network = registry.create_model(model, num_classes=1000, **overrides)
    forward = jax.jit(lambda v, images: network.apply(v, images, train=False))
    logits = np.asarray(forward(variables, golden_images(64)))
    for values in expected["files"].values():
        off = np.abs(logits[:, :16] - np.array(values["logits16"])).max()
        assert off < 2e-5 * values["std"]
        assert logits.std() == pytest.approx(values["std"], rel=1e-5)
        assert logits.argmax(1).tolist() == values["argmax"]


@pytest.mark.parametrize(
    ("model", "program", "overrides"),
    [
        ("nfnet_f0", "haiku", TINY),
        ("dm_resnet50", "haiku", SMALL_RESNET),
        ("fixup_resnet50", "haiku", SMALL_RESNET),
        ("effnetv2_b0", "timm", SMALL_EFFNET),
        ("effnetv2_b0", "keras", SMALL_EFFNET),
        ("effnet_b0", "keras", SMALL_EFFNET),
        ("resnet_rs_50", "timm", {"depths": (1, 1, 1, 1)}),
        ("regnety_4gf", "timm", {"depth": 3}),
        ("deit_ti", "timm", {"depth": 1}),
    ],
)
def test_round_trips_keep_every_bit(model, program, overrides, tmp_path):
    """Ours to X to ours; and X to ours to X."""
    variables = filled(model, **overrides)
    path = tmp_path / f"first{SUFFIX[program]}"
    export_weights(model, variables, path, program, overrides=overrides)
    loaded = load_weights(model, path, overrides=overrides)
    assert jax.tree.structure(loaded) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, loaded, variables)
    again = tmp_path / f"second{SUFFIX[program]}"
    export_weights(model, loaded, again, program, overrides=overrides)
    assert digest(again) == digest(path)


def test_a_plain_pickle_holds_modules_of_arrays(tmp_path):
    """As the official demo reads it; BatchNorm's state is among the modules."""
    export_weights(
        "dm_resnet50",
        filled("dm_resnet50", **SMALL_RESNET),
        tmp_path / "a.pkl",
        "haiku",
        overrides=SMALL_RESNET,
    )
    modules = pickle.loads((tmp_path / "a.pkl").read_bytes())  # ours, just written
    assert {type(parameters) for parameters in modules.values()} == {dict}
    assert modules["ResNet/~/initial_conv"]["w"].shape == (7, 7, 3, 64)
    average = modules["ResNet/~/res_block_v2/~/bn0/~/mean_ema"]
    assert average["average"].dtype == np.float32
    np.testing.assert_array_equal(average["average"], average["hidden"])
    assert average["counter"].dtype == np.int32


def test_layers_of_keras_2_stand_in_its_order(tmp_path, golden):
    """Its loader takes them one after the other, whatever they are called."""
    h5py = pytest.importorskip("h5py")
    variables = filled("effnet_b0", num_classes=1000)
    export_weights("effnet_b0", variables, tmp_path / "a.h5", "keras")
    names = [name for name, _ in golden("effnetv2_keras")["effnet_b0"]["shapes"]]
    with h5py.File(tmp_path / "a.h5") as file:
        first, *layers = [name.decode() for name in file.attrs["layer_names"]]
        weights = [
            name.decode().removesuffix(":0")
            for layer in layers
            for name in file[layer].attrs["weight_names"]
        ]
        assert weights == names
        # sqrt(variance) is ImageNet's std.
        variance = file[f"{first}/{first}/variance:0"][()]
    np.testing.assert_allclose(variance**0.5, [0.229, 0.224, 0.225], rtol=1e-6)


@pytest.mark.parametrize(
    ("model", "program", "reason"),
    [
        ("nfnet_f0", "timm", r"its dm_nfnet_\* .* \(the exact GELU"),
        ("nf_resnet50", "timm", "other functions"),
        ("dm_resnet50", "timm", "timm: it has no such network"),
        ("effnet_b4_fused_1_3", "timm", "timm: it has no such network"),
        ("resnet50", "haiku", "DeepMind's code has NFNets and the networks"),
        ("vit_b", "haiku", "no names of Haiku"),
        ("resnet50", "keras", r"not one of keras\.applications"),
        ("effnet_b8", "keras", "EfficientNet B0 to B7"),
    ],
)
def test_programs_without_such_a_network_are_refused(model, program, reason, tmp_path):
    with pytest.raises(UserError, match=reason) as error:
        export_weights(model, {}, tmp_path / f"a{SUFFIX[program]}", program)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported(tmp_path):
    variables = filled("nfnet_f0", **TINY)
    with pytest.raises(UserError, match=r"a\.h5 should end in \.pkl or \.npz"):
        export_weights("nfnet_f0", variables, tmp_path / "a.h5", "haiku")
    with pytest.raises(UserError, match="not the weights of nfnet_f0"):
        export_weights("nfnet_f0", variables, tmp_path / "a.npz", "haiku")
    assert not list(tmp_path.iterdir())
