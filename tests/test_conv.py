"""Forms of convolutions: equal values and gradients, chosen by backend."""

from __future__ import annotations

import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets import conv
from nfnets.conv import NATIVE, choose_conv_form, conv2d, force_conv_forms


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def values_and_gradients(form, x, kernel, **kwargs):
    def loss(x, kernel):
        y = conv2d(x, kernel, form=form, **kwargs)
        return jnp.sum(jnp.sin(y)), y

    (_, y), grads = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(x, kernel)
    return [y, *grads]


@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize(
    ("form", "channels", "features", "groups"),
    [
        ("split", 128, 64, 2),  # one convolution per group
        ("split", 24, 48, 6),  # all groups in one block-diagonal convolution
        ("split", 40, 40, 5),  # 4 groups, then 1
        ("dense", 24, 48, 6),
        ("shifted", 6, 6, 6),
        ("shifted", 3, 6, 3),  # depthwise with a multiplier
        ("matmul", 6, 10, 1),
        ("by_platform", 24, 48, 6),
        ("by_platform", 6, 6, 6),
    ],
)
@pytest.mark.parametrize("padding", ["SAME", ((2, 0), (1, 1))])
def test_conv_forms_equal_the_native_one(
    form, channels, features, groups, strides, padding
):
    x = normal(0, 2, 7, 8, channels)
    size = 1 if form == "matmul" else 3
    kernel = normal(1, size, size, channels // groups, features) / 10
    options = {"strides": strides, "groups": groups, "padding": padding}
    expected = values_and_gradients("native", x, kernel, **options)
    got = values_and_gradients(form, x, kernel, **options)
    for ours, native in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, native, rtol=1e-4, atol=2e-5)


def test_conv_form_follows_the_backend(monkeypatch):
    kernel, pointwise = jnp.ones((3, 3, 4, 8)), jnp.ones((1, 1, 8, 8))
    assert choose_conv_form(kernel, 8, 1) == "native"
    assert choose_conv_form(kernel, 8, 2) == "split"
    assert choose_conv_form(kernel, 8, 8) == "shifted"
    assert choose_conv_form(pointwise, 8, 1) == "matmul"
    with force_conv_forms(NATIVE):
        assert choose_conv_form(kernel, 8, 2) == "native"
    assert choose_conv_form(kernel, 8, 2) == "split"
    monkeypatch.setattr(conv, "backend", lambda: "gpu")
    for groups in (1, 2, 8):
        assert choose_conv_form(pointwise, 8, groups) == "native"


@pytest.mark.parametrize(("platform", "groups"), [("cpu", 1), ("cuda", 6), ("tpu", 6)])
def test_conv_form_by_platform_follows_what_it_is_lowered_for(platform, groups):
    """One grouped convolution on accelerators; on a CPU none has groups."""
    shapes = jax.eval_shape(lambda: (jnp.ones((2, 5, 5, 24)), jnp.ones((3, 3, 4, 24))))
    function = jax.jit(
        lambda x, kernel: conv2d(x, kernel, groups=6, form="by_platform")
    )
    lowered = jax.export.export(function, platforms=[platform])(*shapes).mlir_module()
    counts = re.findall(r"feature_group_count = (\d+)", lowered)
    assert set(counts) == {str(groups)}
