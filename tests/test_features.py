"""What networks give beside logits: names, shapes, strides, and what they are."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from helpers import TINY_FAMILIES, tiny_variables

from nfnets.errors import UserError
from nfnets.features import feature_info
from nfnets.registry import create_model


def tiny(name):
    model = create_model(name, num_classes=5, **TINY_FAMILIES[name])
    return model, tiny_variables(model)


def images(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_features_of_every_family(name):
    """Shapes are those announced, and the classifier makes logits of ``pooled``."""
    model, variables = tiny(name)
    x = images(2, 16, 24, 3)  # ViT resizes its positions
    forward = jax.jit(functools.partial(model.apply, train=False, capture="all"))
    outputs = jax.device_get(forward(variables, x))

    info = {i.name: i for i in feature_info(model)}
    assert outputs.keys() == {*info, "logits"}
    head = variables["params"]["head"]
    logits = outputs["pooled"] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5, atol=1e-5)
    for key, (_, channels, stride) in info.items():
        assert outputs[key].shape[0] == 2
        assert outputs[key].shape[-1] == channels
        if stride is not None:
            steps = (16 // stride, 24 // stride)
            is_map = outputs[key].ndim == 4
            expected = steps if is_map else (1 + steps[0] * steps[1],)
            assert outputs[key].shape[1:-1] == expected


# 2102.06171, Table 1; 1512.03385, Table 1; 2104.00298, Table 4 (its stage 0 is the
# stem); 2003.13678, Fig. 16; 2012.12877, Table 1. Final convolutions: twice 1536
# channels in NFNets, 1280 in EfficientNetV2, whose 300 pixels make odd maps: 75, 19.
OFFICIAL = {
    "nfnet_f0": ((256, 512, 1536, 1536, 3072), (4, 8, 16, 32)),
    "resnet50": ((256, 512, 1024, 2048, 2048), (4, 8, 16, 32)),
    "effnetv2_s": ((24, 48, 64, 128, 160, 256, 1280), (2, 4, 8, 16, 16, 32)),
    "regnety_4gf": ((128, 192, 512, 1088, 1088), (4, 8, 16, 32)),
    "deit_ti": ((192,) * 13, (16,) * 12),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_channels_and_strides_are_the_papers(name):
    channels, strides = OFFICIAL[name]
    info = feature_info(create_model(name, num_classes=10))
    prefix, first = ("block", 0) if name == "deit_ti" else ("stage", 1)
    names = [f"{prefix}{i + first}" for i in range(len(strides))]
    assert [i.name for i in info] == [*names, "pooled"]
    assert tuple(i.channels for i in info) == channels
    assert tuple(i.stride for i in info) == (*strides, None)


def test_a_network_without_capture_is_the_same_computation():
    model, variables = tiny("nfnet_f0")

    def jaxpr(**kwargs):
        forward = functools.partial(model.apply, train=False, **kwargs)
        return jax.make_jaxpr(forward)(variables, images(1, 8, 8, 3))

    assert str(jaxpr()) == str(jaxpr(capture="logits"))


def test_what_is_not_captured_is_not_computed():
    model, variables = tiny("nf_resnet50")

    def operations(capture):
        forward = functools.partial(model.apply, train=False, capture=capture)
        compiled = jax.jit(forward).lower(variables, images(1, 8, 8, 3)).compile()
        return compiled.cost_analysis()["flops"]

    # The blocks of stage 2, 16 to 32 channels by a bottleneck of 8 at 4 x 4 pixels:
    # projection, 1x1 at 8 x 8, 3x3, 1x1; and the classifier.
    macs = 16 * 16 * 32 + 64 * 16 * 8 + 16 * 9 * 8 * 8 + 16 * 8 * 32 + 32 * 5
    assert operations(None) - operations("stage1") > 2 * 0.7 * macs


def test_unknown_names_are_refused_with_those_there_are():
    model, variables = tiny("deit_ti")
    apply = functools.partial(model.apply, train=False, capture=("pooled", "stage1"))
    with pytest.raises(UserError) as error:
        jax.eval_shape(apply, variables, images(1, 8, 8, 3))
    assert str(error.value) == (
        "capture: the network has no 'stage1'; it has block0, block1, pooled, logits, "
        "and 'all' for all of them"
    )
