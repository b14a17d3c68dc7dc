"""Signal propagation at initialisation follows the paper's law (2101.08692, Sec. 3)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from nfnets.errors import UserError
from nfnets.initialize import init_variables
from nfnets.registry import create_model
from nfnets.signal_propagation import (
    plot_signal_propagation,
    signal_propagation,
    with_skip_gain,
)

DEPTHS = (4, 4, 4)
ALPHA = 0.2


@pytest.fixture(scope="module")
def network():
    model = create_model(
        "nf_resnet50",
        num_classes=10,
        depths=DEPTHS,
        widths=(128, 256, 512),
        strides=(1, 2, 2),
    )
    variables = init_variables(model, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (16, 64, 64, 3))
    return model, variables, images


@pytest.fixture(scope="module")
def result(network):
    model, variables, images = network
    params = with_skip_gain(variables["params"], 1.0)
    return signal_propagation(model, {"params": params}, images)


def test_variance_grows_by_alpha_squared_and_is_reset_at_transitions(result):
    law = np.concatenate([1 + ALPHA**2 * np.arange(1, n + 1) for n in DEPTHS])
    np.testing.assert_allclose(result.avg_var[1:], law, rtol=0.12)


def test_inside_a_stage_the_variances_of_shortcut_and_residual_add(result):
    growth = np.diff(result.avg_var)
    starts = np.cumsum((0, *DEPTHS[:-1]))
    inside = np.setdiff1d(np.arange(sum(DEPTHS)), starts)
    added = ALPHA**2 * result.res_avg_var
    np.testing.assert_allclose(growth[inside], added[inside], rtol=0.12)


def test_residual_branches_preserve_variance(result):
    """Near 1, less where SAME padding makes up much of a small feature map."""
    assert result.res_avg_var[: DEPTHS[0]] == pytest.approx(0.95, abs=0.1)
    assert (result.res_avg_var > 0.6).all()
    assert (result.res_avg_var < 1.1).all()


def test_channel_means_stay_near_zero(result):
    """The mean shift of unnormalised ReLU networks is what standardisation removes."""
    assert (result.avg_sq_mean[1:] < 0.02).all()


def test_with_zero_skip_gain_identity_shortcuts_pass_unchanged(network):
    signal = signal_propagation(*network)
    np.testing.assert_allclose(signal.avg_var[2:5], signal.avg_var[1], rtol=1e-6)


def test_probes_are_stored_only_on_request(network):
    model, variables, images = network
    images = images[:1, :32, :32]

    def equations(**kwargs):
        def forward(variables):
            return model.apply(variables, images, train=False, **kwargs)

        return len(jax.make_jaxpr(forward)(variables).jaxpr.eqns)

    assert equations() == equations(mutable=["batch_stats"])
    assert equations() < equations(mutable=["signal"])
    initial = jax.eval_shape(
        lambda key: model.init(key, images, train=False), jax.random.key(0)
    )
    assert set(initial) == {"params"}


def test_model_without_probes_is_refused():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Dense(2)(images)

    images = np.zeros((1, 2, 2, 3), np.float32)
    variables = Linear().init(jax.random.key(0), images, train=False)
    with pytest.raises(UserError, match="Linear has no signal propagation probes"):
        signal_propagation(Linear(), variables, images)


def test_plot_is_an_image(result, tmp_path):
    path = tmp_path / "plot.png"
    plot_signal_propagation(result, str(path), "test")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_command_reports_an_unknown_model_in_one_line():
    script = Path(__file__).parents[1] / "experiments" / "signal_propagation.py"
    done = subprocess.run(
        [sys.executable, str(script), "--model=nf_resnet51"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown model 'nf_resnet51'; did you mean")
    assert done.stderr.count("\n") == 1
