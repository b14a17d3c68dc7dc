"""ResNets and ResNet-RS against timm's numbers: counts, names, logits, one pass."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json

import jax
import numpy as np
import pytest
from golden_fill import golden_images, timm_arrays

from nfnets.conv import NATIVE, force_conv_forms
from nfnets.errors import UserError
from nfnets.flops import count
from nfnets.registry import create_model, small_image_overrides
from nfnets.weights import convert_timm, export_timm
from nfnets.weights.timm import timm_shapes
from resnet_rs.resnet import VARIANTS

# GMACs at 224 px that timm publishes, and those of ResNet-RS's own configs.
GMACS = {
    **{"resnet18": 1.81, "resnet34": 3.66, "resnet50": 4.09, "resnet101": 7.80},
    **{"resnet152": 11.51, "resnet50d": 4.33, "seresnet50": 4.09},
    **{"resnext50_32x4d": 4.23},
    **{("resnet_rs_50", 160): 2.28, ("resnet_rs_101", 160): 4.18},
    **{("resnet_rs_101", 192): 6.01, ("resnet_rs_152", 192): 8.75},
    **{("resnet_rs_152", 224): 11.90, ("resnet_rs_152", 256): 15.53},
    **{("resnet_rs_200", 256): 20.09, ("resnet_rs_270", 256): 26.95},
    **{("resnet_rs_350", 256): 34.38, ("resnet_rs_350", 320): 53.68},
    **{("resnet_rs_420", 320): 63.94},
}
# Name of the goldens and image size. At 64 px padding on both sides is not SAME; at 97,
# halved to 49, 25, 13, 7 (RS: 4), pooling 2x2 sticks out at the border.
RUNS = [
    ("resnet18", 64),
    ("resnet50", 64),
    ("resnet50", 97),
    ("resnet50d", 97),
    ("seresnet50", 64),
    ("seresnet50", 97),
    ("resnext50_32x4d", 64),
    ("resnet_rs_50", 64),
    ("resnet_rs_50", 97),
    ("senet154", 64),
    ("senet154_shallow", 64),  # 32 px before the pooling from the corner
    ("senet154_shallow", 97),  # 49 px
]


@pytest.fixture(scope="module")
def forward(golden):
    """Name of the goldens -> jitted function of images."""

    @functools.cache
    def load(name):
        depths = golden("resnet_timm")[name].get("depths")
        overrides = {} if depths is None else {"depths": tuple(depths)}
        name = name.removesuffix("_shallow")
        shapes = {a.name: a.shape for a in timm_shapes(name, overrides=overrides)}
        variables = convert_timm(name, timm_arrays(shapes), overrides=overrides)
        model = create_model(name, num_classes=1000, **overrides)

        def apply(variables, images):
            # 50 blocks of 64 groups, which take long to compile when they are split.
            is_large = name == "senet154" and not overrides
            native = force_conv_forms(NATIVE)
            with native if is_large else contextlib.nullcontext():
                return model.apply(variables, images, train=False)

        return functools.partial(jax.jit(apply), variables)

    return load


@pytest.mark.parametrize(("name", "size"), RUNS)
def test_logits_equal_timm(name, size, forward, golden):
    expected = golden("resnet_timm")[name]["logits"][str(size)]
    logits = np.asarray(forward(name)(golden_images(size)), np.float64)
    largest = np.abs(expected["logits16"]).max()
    np.testing.assert_allclose(
        logits[:, :16], expected["logits16"], rtol=0, atol=1e-5 * largest
    )
    assert abs(logits.sum() - expected["sum"]) < 1e-4 * largest
    assert logits.std() == pytest.approx(expected["std"], rel=1e-5)


def test_every_variant_has_a_golden_row(golden):
    rows = set(golden("resnet_timm")) - {"_source", "senet154_shallow"}
    assert rows == set(VARIANTS)


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_macs_and_names_equal_timm(name, golden):
    expected = golden("resnet_timm")[name]
    for size, macs in expected["macs"].items():
        counts = count(create_model(name, num_classes=1000), int(size))
        assert counts[:2] == (expected["params"], macs)
        published = GMACS.get((name, int(size)), GMACS.get(name))
        if published is not None:
            assert round(macs / 1e9, 2) == published
    names = [[a.name, list(a.shape)] for a in timm_shapes(name)]
    assert len(names) == expected["state_entries"]
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    assert digest == expected["state_sha256"]


def test_the_published_macs_are_all_compared(golden):
    rows = golden("resnet_timm")
    sizes = {(n, int(s)) for n in VARIANTS for s in rows[n]["macs"]}
    compared = {key if isinstance(key, tuple) else (key, 224) for key in GMACS}
    assert sizes - compared == {("senet154", 224)}


@pytest.mark.parametrize("name", ["resnet50", "resnet_rs_50"])
def test_names_shapes_and_order_equal_timms(name, golden):
    """As the digests, but says where the first difference is."""
    found = [[a.name, list(a.shape)] for a in timm_shapes(name)]
    assert found == golden("resnet_param_lists")[name]


def test_layouts_by_hand():
    overrides = {"depths": (1, 1), "widths": (32, 64), "strides": (1, 2)}
    shapes = {
        a.name: a.shape for a in timm_shapes("resnet_rs_50", 10, overrides=overrides)
    }
    arrays = timm_arrays(shapes)
    variables = convert_timm("resnet_rs_50", arrays, overrides=overrides)
    params, stats = variables["params"], variables["batch_stats"]

    def same(ours, name, axes=None):
        theirs = arrays[name]
        np.testing.assert_array_equal(
            ours, theirs if axes is None else theirs.transpose(axes)
        )

    conv = (2, 3, 1, 0)
    same(params["stem_conv2"]["kernel"], "conv1.6.weight", conv)
    same(stats["stem_bn2"]["mean"], "bn1.running_mean")
    same(params["stem_conv3"]["kernel"], "maxpool.0.weight", conv)
    block = params["stage2_block0"]
    same(block["conv0"]["kernel"], "layer2.0.conv1.weight", conv)
    same(block["bn2"]["scale"], "layer2.0.bn3.weight")
    same(block["conv_shortcut"]["kernel"], "layer2.0.downsample.1.weight", conv)
    matrix = arrays["layer2.0.se.fc1.weight"][:, :, 0, 0]
    np.testing.assert_array_equal(block["squeeze_excite"]["reduce"]["kernel"], matrix.T)
    same(block["squeeze_excite"]["expand"]["bias"], "layer2.0.se.fc2.bias")
    same(params["head"]["kernel"], "fc.weight", (1, 0))


NARROW = {"widths": (32, 32, 64, 64), "depths": (1, 2, 1, 1)}


@pytest.mark.parametrize("small_images", [False, True])
@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "senet154", "resnet_rs_50"])
def test_round_trip(name, small_images):
    """Also with the stem for small images, which has no pooling convolution."""
    overrides = NARROW | {"stem_channels": (64,) * len(VARIANTS[name].stem_channels)}
    overrides |= {"groups": min(8, VARIANTS[name].groups)}
    overrides |= small_image_overrides(name) if small_images else {}
    shapes = {a.name: a.shape for a in timm_shapes(name, 10, overrides=overrides)}
    assert ("maxpool.0.weight" in shapes) == (
        name == "resnet_rs_50" and not small_images
    )
    arrays = timm_arrays(shapes)
    variables = convert_timm(name, arrays, overrides=overrides)
    back = export_timm(name, variables)
    assert list(back) == list(arrays)
    for key, array in arrays.items():
        np.testing.assert_array_equal(back[key], array)


def test_weights_of_another_network_are_refused(golden):
    arrays = timm_arrays(dict(golden("resnet_param_lists")["resnet50"]))
    with pytest.raises(UserError, match=r"not the weights of resnet50d: .*conv1\.0"):
        convert_timm("resnet50d", arrays)
    with pytest.raises(UserError, match=r"senet154: 'last_linear.bias' is missing"):
        convert_timm("senet154", arrays)


def test_a_training_pass_and_its_running_statistics_equal_timm(golden):
    """The last ones average 2 images of 4 x 4: their variance times 32 / 31."""
    expected = golden("resnet_timm")["resnet18"]["train97"]
    shapes = {a.name: a.shape for a in timm_shapes("resnet18")}
    model = create_model("resnet18", num_classes=1000)
    variables = convert_timm("resnet18", timm_arrays(shapes))
    train = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    logits, state = train(variables, golden_images(97))
    largest = np.abs(expected["logits16"]).max()
    np.testing.assert_allclose(
        logits[:, :16], expected["logits16"], rtol=0, atol=1e-4 * largest
    )
    after = export_timm("resnet18", variables | jax.device_get(state))
    for name, (mean, norm) in expected["running"].items():
        assert after[name].mean() == pytest.approx(mean, rel=1e-5, abs=1e-6), name
        assert np.linalg.norm(after[name]) == pytest.approx(norm, rel=1e-5), name
