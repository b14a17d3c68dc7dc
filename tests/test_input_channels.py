"""Images of other than three channels, and the weights of RGB networks for them."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from helpers import TINY_FAMILIES, tiny_recipe, tiny_variables, with_changes

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.initialize import init_variables
from nfnets.nf_layers import standardize_weight
from nfnets.registry import create_model
from nfnets.training.initial_weights import initial_variables
from nfnets.weights import adapt_input_channels, load_weights, save_weights

STEMS = {"stem_conv", "stem_conv0", "patch_embed"}


def tiny(name):
    return create_model(name, num_classes=5, **TINY_FAMILIES[name])


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def first_map(model, variables, images):
    """What the first convolution of a network makes of images."""

    @jax.jit
    def stem(variables, images):
        _, state = model.apply(
            variables,
            images,
            train=False,
            mutable=["intermediates"],
            capture_intermediates=lambda module, _: module.name in STEMS,
        )
        (found,) = state["intermediates"].values()
        return found["__call__"][0]

    return np.asarray(stem(variables, images))


@pytest.mark.parametrize("channels", [1, 6])
@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_every_family_takes_any_number_of_channels(name, channels):
    """Only the first kernel depends on it."""
    model = tiny(name)
    rgb = abstract_variables(model, 8)
    variables = abstract_variables(model, 8, channels)
    changed = [
        (jax.tree_util.keystr(path), leaf.shape[2])
        for (path, leaf), other in zip(
            jax.tree_util.tree_leaves_with_path(variables),
            jax.tree.leaves(rgb),
            strict=True,
        )
        if leaf.shape != other.shape
    ]
    ((kernel, inputs),) = changed
    assert inputs == channels
    assert any(f"['{stem}']['kernel']" in kernel for stem in STEMS)
    apply = functools.partial(model.apply, train=False)
    images = jax.ShapeDtypeStruct((2, 8, 8, channels), np.float32)
    assert jax.eval_shape(apply, variables, images).shape == (2, 5)


def test_initial_kernels_know_their_channels():
    """Normal with variance 1 / fan_in, of 6 * 3 * 3 inputs."""
    variables = init_variables(tiny("nf_resnet50"), jax.random.key(0), channels=6)
    kernel = variables["params"]["stem_conv"]["kernel"]
    assert kernel.shape == (3, 3, 6, 8)
    np.testing.assert_allclose(kernel.std(), (6 * 9) ** -0.5, rtol=0.15)


@pytest.mark.parametrize("name", TINY_FAMILIES)
def test_adapted_weights_see_a_gray_image_as_its_rgb_copy(name):
    model = tiny(name)
    variables, gray = tiny_variables(model), noise(2, 8, 8, 1)
    expected = first_map(model, variables, np.repeat(gray, 3, axis=-1))
    adapted = adapt_input_channels(variables, 1)
    np.testing.assert_allclose(
        first_map(model, adapted, gray), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ["nfnet_f0", "effnetv2_s", "deit_ti"])
def test_adapted_weights_see_a_repeated_image_as_the_image(name):
    """Six channels that are RGB twice: each kernel counts half."""
    model = tiny(name)
    variables, rgb = tiny_variables(model), noise(2, 8, 8, 3)
    adapted = adapt_input_channels(variables, 6)
    np.testing.assert_allclose(
        first_map(model, adapted, np.tile(rgb, 2)),
        first_map(model, variables, rgb),
        rtol=1e-4,
        atol=1e-5,
    )


def test_more_channels_repeat_the_kernel_as_timm_does():
    """By hand: channels R, G, B, R, G of 5, each times 3 / 5."""
    stem = {"kernel": noise(3, 3, 3, 4)}
    adapted = adapt_input_channels({"params": {"stem_conv": stem}}, 5)
    kernel = adapted["params"]["stem_conv"]["kernel"]
    for channel, source in enumerate((0, 1, 2, 0, 1)):
        expected = stem["kernel"][:, :, source] * np.float32(0.6)
        np.testing.assert_array_equal(kernel[:, :, channel], expected)


def test_a_weight_standardised_kernel_loses_a_mean_that_it_cannot_have():
    """With 5 channels; the rest is the repeated kernel, as it is used."""
    params = {"stem_conv": {"kernel": noise(3, 3, 3, 4), "gain": 1 + noise(4)}}
    adapted = adapt_input_channels({"params": params}, 5)["params"]
    used, found = (standardize_weight(**p["stem_conv"]) for p in (params, adapted))
    repeated = np.asarray(used)[:, :, [0, 1, 2, 0, 1]] * 0.6
    centred = repeated - repeated.mean((0, 1, 2), keepdims=True)
    np.testing.assert_allclose(found, centred, atol=1e-6)


@pytest.fixture
def saved(tmp_path):
    """A file of weights of the tiny NFNet for RGB images."""
    path = tmp_path / "rgb.safetensors"
    variables = tiny_variables(tiny("nfnet_f0"))
    save_weights("nfnet_f0", variables, path, overrides=TINY_FAMILIES["nfnet_f0"])
    return path


def test_files_are_read_for_other_channels_and_written_with_them(saved, tmp_path):
    overrides = TINY_FAMILIES["nfnet_f0"]
    gray = load_weights("nfnet_f0", saved, overrides=overrides, in_channels=1)
    assert gray["params"]["stem_conv0"]["kernel"].shape == (3, 3, 1, 8)
    path = tmp_path / "gray.safetensors"
    save_weights("nfnet_f0", gray, path, overrides=overrides)
    for in_channels in (None, 1):
        again = load_weights(
            "nfnet_f0", path, overrides=overrides, in_channels=in_channels
        )
        assert jax.tree.all(jax.tree.map(np.array_equal, gray, again))
    with pytest.raises(UserError, match="weights for images of 1 channels cannot be"):
        load_weights("nfnet_f0", path, overrides=overrides, in_channels=3)


def test_a_run_refuses_weights_for_gray_images(saved, tmp_path):
    """Its sources are RGB."""
    overrides = TINY_FAMILIES["nfnet_f0"]
    gray = load_weights("nfnet_f0", saved, overrides=overrides, in_channels=1)
    path = tmp_path / "gray.safetensors"
    save_weights("nfnet_f0", gray, path, overrides=overrides)
    recipe = with_changes(tiny_recipe(), init_from=str(path))
    with pytest.raises(UserError, match="cannot be made those for 3"):
        initial_variables(recipe, recipe.create_model(), print)


def test_no_channels_are_no_number():
    variables = tiny_variables(tiny("nfnet_f0"))
    with pytest.raises(UserError, match="to 1 or more"):
        adapt_input_channels(variables, 0)
