"""Pooling, stochastic depth, weight standardisation, activations, what is rounded."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nfnets.conv import conv2d
from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.initialize import init_variables
from nfnets.layers import (
    SqueezeExcite,
    StochasticDepth,
    add_bias,
    add_scaled,
    avg_pool_same,
    in_float32,
)
from nfnets.nf_layers import (
    WSConv,
    block_table,
    gelu,
    scaled_activation,
    standardize_weight,
)
from nfnets.registry import create_model

SMALL = {
    "depths": (1, 1),
    "widths": (16, 32),
    "strides": (1, 2),
    "group_size": 4,
    "stem_strides": (1, 1, 1, 1),
    "stem_channels": (4, 4, 4),
}


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_the_suite_runs_on_four_cpu_devices_without_rank_promotion():
    assert [d.platform for d in jax.devices()] == ["cpu"] * 4
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_average_pool_divides_by_the_pixels_inside():
    x = jnp.arange(15.0).reshape(1, 3, 5, 1)
    pooled = avg_pool_same(x, 2, 2)[0, :, :, 0]
    expected = [[3.0, 5.0, 6.5], [10.5, 12.5, 14.0]]
    np.testing.assert_allclose(pooled, expected)


def test_in_bfloat16_the_gradient_of_what_is_broadcast_is_summed_in_float32():
    x = jnp.ones((41, 5, 5, 2), jnp.bfloat16)  # 1025 numbers: no bfloat16 is 1025
    ones, one = jnp.ones(2), jnp.ones(())

    def total(function):
        return lambda *args: jnp.sum(function(*args).astype(jnp.float32))

    bias = jax.grad(total(add_bias), argnums=1)(x, ones)
    np.testing.assert_array_equal(bias, [1025.0, 1025.0])
    gain = jax.grad(total(add_scaled), argnums=2)(x, x, one)
    assert gain == 2 * 1025
    scaled = functools.partial(in_float32, jnp.multiply)
    gate = jax.grad(total(scaled), argnums=1)(x, ones.reshape(1, 1, 1, 2))
    np.testing.assert_array_equal(gate.ravel(), [1025.0, 1025.0])
    for function, args in ((add_bias, (x, ones)), (add_scaled, (x, x, one))):
        assert function(*args).dtype == jnp.bfloat16


def test_gelu_and_its_derivative_by_the_papers_formula():
    x = jnp.concatenate([normal(0, 1000) * 3, jnp.array([0.0, -50.0, 50.0])])
    exact = np.asarray(x, np.float64)
    tanh = np.tanh(np.sqrt(2 / np.pi) * (exact + 0.044715 * exact**3))
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * exact**2)
    slope = 0.5 * (1 + tanh) + 0.5 * exact * (1 - tanh**2) * inner
    np.testing.assert_allclose(gelu(x), 0.5 * exact * (1 + tanh), rtol=0, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope, rtol=0, atol=4e-6)


def test_of_an_activation_only_the_input_is_kept():
    x = normal(0, 1000).astype(jnp.bfloat16)
    _, backward = jax.vjp(scaled_activation("gelu"), x)
    (kept,) = jax.tree.leaves(backward)
    np.testing.assert_array_equal(kept, x)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_activations_are_rounded_once(name):
    x = normal(0, 1000).astype(jnp.bfloat16)
    act = scaled_activation(name)
    exact = act(x.astype(jnp.float32))
    np.testing.assert_array_equal(act(x), exact.astype(jnp.bfloat16))


def test_stochastic_depth_drops_whole_examples_and_never_rescales():
    layer = StochasticDepth(0.25)
    x = jnp.ones((4000, 2, 2, 3))
    out = layer.apply({}, x, train=True, rngs={"stochastic_depth": jax.random.key(0)})
    per_example = np.asarray(out).reshape(4000, -1)
    assert set(np.unique(per_example)) == {0.0, 1.0}
    assert (per_example.min(1) == per_example.max(1)).all()
    # The standard deviation of the mean is sqrt(.25 * .75 / 4000) = 0.0068.
    assert per_example[:, 0].mean() == pytest.approx(0.75, abs=0.03)


def test_stochastic_depth_with_rescaling_keeps_the_expectation():
    layer = StochasticDepth(0.25, rescale=True)
    x = jnp.ones((4000, 2, 3))
    y = layer.apply({}, x, train=True, rngs={"stochastic_depth": jax.random.key(0)})
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert y.mean() == pytest.approx(1, abs=0.03)
    assert (layer.apply({}, x, train=False) == x).all()


def test_stochastic_depth_is_the_identity_in_evaluation_and_draws_nothing_at_rate_0():
    x = normal(0, 2, 3)
    assert (StochasticDepth(0.5).apply({}, x, train=False) == x).all()
    assert (StochasticDepth(0.0).apply({}, x, train=True) == x).all()  # without rngs


def test_squeeze_excite_by_hand():
    model = SqueezeExcite(hidden=1, features=2)
    params = {
        "reduce": {"kernel": jnp.array([[1.0], [2.0]]), "bias": jnp.array([-1.0])},
        "expand": {"kernel": jnp.array([[1.0, -1.0]]), "bias": jnp.array([0.0, 0.5])},
    }
    x = jnp.stack([jnp.full((2, 2), 0.5), jnp.ones((2, 2))], axis=-1)[None]
    gate = model.apply({"params": params}, x)
    hidden = 0.5 + 2.0 - 1.0
    expected = 1 / (1 + np.exp([-hidden, hidden - 0.5]))
    np.testing.assert_allclose(gate[0, 0, 0], expected, rtol=1e-6)


def test_squeeze_excite_activates_its_hidden_layer_as_told():
    x = jnp.ones((1, 2, 2, 1))
    ones, zero = jnp.ones((1, 1)), jnp.zeros(1)
    params = {name: {"kernel": ones, "bias": zero} for name in ("reduce", "expand")}
    gate = SqueezeExcite(1, 1, activation=jax.nn.silu).apply({"params": params}, x)
    hidden = 1 / (1 + np.exp(-1))  # silu(1)
    np.testing.assert_allclose(gate, 1 / (1 + np.exp(-hidden)), rtol=1e-6)


def test_standardized_weight_has_mean_0_and_variance_gain2_over_fan_in():
    kernel = 3.0 + 0.1 * normal(0, 3, 3, 8, 5)
    gain = jnp.array([1.0, 2.0, 0.5, 1.0, 3.0])
    weight = np.asarray(standardize_weight(kernel, gain), np.float64)
    np.testing.assert_allclose(weight.mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(weight.var((0, 1, 2)) * 72, gain**2, rtol=1e-5)


def test_standardization_floor_acts_on_variance_times_fan_in():
    kernel = jnp.array([1.0, -1.0]).reshape(1, 1, 2, 1) * 1e-3  # var * fan_in = 2e-6
    weight = standardize_weight(kernel, jnp.ones(1))
    np.testing.assert_allclose(weight, kernel / 1e-2, rtol=1e-6)


def test_ws_conv_preserves_unit_variance():
    model = WSConv(64, 3)
    x = normal(0, 4, 20, 20, 64)
    variables = init_variables_of(model, x)
    y = model.apply(variables, x)[:, 1:-1, 1:-1]  # without the padded border
    assert float(y.var()) == pytest.approx(1.0, rel=0.03)


def init_variables_of(model, x):
    return model.init(jax.random.key(1), x)


def test_bfloat16_standardizes_in_float32_and_keeps_float32_parameters():
    model = WSConv(16, 3, dtype=jnp.bfloat16)
    x = normal(0, 2, 8, 8, 8)
    params = init_variables_of(model, x)["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    # Mean / standard deviation 100: in bfloat16 the mean would swallow the noise.
    kernel = 10 + 0.1 * normal(2, *params["kernel"].shape)
    y = model.apply({"params": {**params, "kernel": kernel}}, x)
    assert y.dtype == jnp.bfloat16
    weight = standardize_weight(kernel, params["gain"]).astype(jnp.bfloat16)
    expected = conv2d(x.astype(jnp.bfloat16), weight)
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.float32(expected))


@pytest.mark.parametrize("name", ["relu", "gelu", "silu", "tanh", "selu", "elu"])
def test_scaled_activations_have_unit_variance_on_normal_input(name):
    x = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    assert float(scaled_activation(name)(x).var()) == pytest.approx(1.0, rel=0.01)


def test_unknown_activation_names_close_ones():
    with pytest.raises(UserError, match=r"'swiss'.*(known|did you mean)"):
        scaled_activation("swiss")


@pytest.mark.parametrize("name", ["glu", "log_softmax"])
def test_what_is_not_elementwise_is_no_activation(name):
    """The official table has them; glu halves the channels, and no network fits."""
    with pytest.raises(UserError, match=f"unknown activation '{name}'"):
        scaled_activation(name)


def test_block_table_wants_one_number_per_stage():
    with pytest.raises(UserError, match="one number per stage"):
        block_table(
            depths=(1, 2),
            widths=(8,),
            strides=(1, 2),
            in_channels=4,
            alpha=0.2,
            stochastic_depth_rate=0.0,
            bottleneck=lambda *_: (8, 1),
        )


def gradient_of_tiny_network(model):
    rngs = {"dropout": jax.random.key(1), "stochastic_depth": jax.random.key(2)}

    def loss(params):
        logits = model.apply(
            {"params": params}, normal(3, 4, 8, 8, 3), train=True, rngs=rngs
        )
        assert logits.dtype == jnp.float32
        assert logits.shape == (4, 10)
        return jnp.mean(jnp.square(logits - 1))

    return jax.jit(jax.grad(loss))


def test_small_network_has_finite_gradients_on_8_pixel_images():
    model = create_model("nfnet_f0", num_classes=10, **SMALL)
    params = init_variables(model, jax.random.key(0), 8)["params"]
    for leaf in jax.tree.leaves(gradient_of_tiny_network(model)(params)):
        assert np.isfinite(leaf).all()


def test_bfloat16_network_keeps_float32_parameters_gradients_and_logits():
    model = create_model("nfnet_f0", num_classes=10, dtype=jnp.bfloat16, **SMALL)
    params = abstract_variables(model, 8)["params"]
    grads = jax.eval_shape(gradient_of_tiny_network(model), params)
    for leaf in jax.tree.leaves((params, grads)):
        assert leaf.dtype == jnp.float32


def test_init_variables_equals_init():
    model = create_model(
        "nf_seresnet50",
        num_classes=10,
        depths=(1,),
        widths=(16,),
        strides=(1,),
        stem_channels=16,
    )
    expected = model.init(jax.random.key(7), jnp.zeros((1, 8, 8, 3)), train=False)
    got = init_variables(model, jax.random.key(7), 8)
    assert set(got) == {"params"}
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_initial_distributions():
    model = create_model("nfnet_f0", num_classes=1000, **{**SMALL, "widths": (64, 256)})
    params = init_variables(model, jax.random.key(0), 8)["params"]
    block = params["stage2_block0"]
    conv2 = np.asarray(block["conv2"]["kernel"])  # fan_in 128
    assert conv2.std() == pytest.approx(128**-0.5, rel=0.03)
    assert np.abs(conv2).max() > 3 * 128**-0.5  # not truncated
    reduce = np.asarray(block["squeeze_excite"]["reduce"]["kernel"])
    assert np.abs(reduce).max() <= 2 * 256**-0.5  # truncated at two std
    assert params["head"]["kernel"].std() == pytest.approx(0.01, rel=0.03)
    assert block["skip_gain"] == 0.0
    assert (np.asarray(block["conv2"]["gain"]) == 1.0).all()
