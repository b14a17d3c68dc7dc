"""Outputs of the networks against the official code, on the goldens' filled arrays."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from golden_fill import golden_array, golden_arrays, golden_images

from nfnets.registry import create_model
from nfnets.weights import convert_haiku

RUNS = [
    ("nfnet_f0", "64"),
    ("nfnet_f0", "75"),  # odd feature maps
    ("nf_resnet50", "64"),
    ("nf_resnet50", "75"),
    ("nf_seresnet50", "64"),
    ("nf_regnet_b0", "64"),
    ("nf_regnet_b0", "72"),
    ("dm_resnet50", "64"),
    ("dm_resnet50", "75"),
    ("dm_resnet50_postact", "64"),
    ("skipinit_resnet50", "64"),
    ("fixup_resnet50", "64"),
]


@pytest.fixture(scope="session")
def golden_model(golden):
    """Name -> jitted function of images that returns ({logits, pooled}, probes)."""

    @functools.cache
    def load(name):
        model = create_model(name, num_classes=1000)
        arrays = golden_arrays(golden("nfnet_param_lists")[name])
        variables = convert_haiku(name, arrays)

        @jax.jit
        def forward(variables, images):
            return model.apply(
                variables,
                images,
                train=False,
                capture=("logits", "pooled"),
                mutable=["signal"],
            )

        return functools.partial(forward, variables)

    return load


@pytest.mark.parametrize(("name", "size"), RUNS)
def test_logits_pool_and_signal_equal_the_official_code(
    name, size, golden_model, golden
):
    expected = golden("nfnet_models")[name][size]
    outputs, state = jax.device_get(golden_model(name)(golden_images(int(size))))
    logits, pool, signal = outputs["logits"], outputs["pooled"], state["signal"]
    if name == "fixup_resnet50":  # whose classifier first adds a scalar to the pool
        pool = pool - golden_array("FixUp_ResNet/bias2", ())

    np.testing.assert_allclose(logits[:, :16], expected["logits16"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(logits.sum(1), expected["logits_sum"], rtol=0, atol=1e-3)
    np.testing.assert_allclose(logits.std(), expected["logits_std"], rtol=1e-5)
    assert logits.argmax(1).tolist() == expected["argmax"]
    assert list(pool.shape) == expected["pool_shape"]
    np.testing.assert_allclose(pool.mean(), expected["pool_mean"], atol=1e-6)
    np.testing.assert_allclose(pool.std(), expected["pool_std"], rtol=1e-5)
    for probe, value in expected.get("signal_metrics", {}).items():
        np.testing.assert_allclose(signal[probe], value, rtol=2e-6, err_msg=probe)
    if "signal_metrics" in expected:
        assert set(signal) == set(expected["signal_metrics"])


def test_signal_metrics_are_checked_for_each_family(golden):
    models = golden("nfnet_models")
    with_metrics = {
        name for name, size in RUNS if "signal_metrics" in models[name][size]
    }
    assert with_metrics == {name for name, _ in RUNS} - {"nf_seresnet50"}
