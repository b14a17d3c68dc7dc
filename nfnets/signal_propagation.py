"""Signal Propagation Plots of a network (Brock, De, Smith 2021, 2101.08692, Sec. 3).

The paper's tool for designing networks without normalisation: feed unit normal noise
to a freshly initialised network and follow the moments of its activations over depth.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from nfnets.errors import UserError
from nfnets.layers import SIGNAL


@dataclasses.dataclass(frozen=True)
class SignalPropagation:
    """Moments over N, H, W, averaged over channels; B is the number of blocks.

    Index 0 of the first two is the stem's output, index i + 1 the output of block i.
    """

    avg_sq_mean: np.ndarray  # [B + 1], squared channel mean
    avg_var: np.ndarray  # [B + 1], channel variance
    res_avg_var: np.ndarray  # [B], variance of the residual before alpha and skip gain


def signal_propagation(
    model: nn.Module, variables: Any, images: jax.Array
) -> SignalPropagation:
    """Follows the signal through ``model``, without dropout or stochastic depth.

    BatchNorm takes the statistics of ``images``: before training, the running averages
    are no statistics of anything.

    Args:
      model: a network that sows the probes ``avg_var_<i>`` etc.
      variables: of the model.
      images: [N, H, W, 3]; the paper uses unit normal noise.
    """
    has_batch_norm = "batch_stats" in variables
    if has_batch_norm:
        model = model.clone(drop_rate=0.0, stochastic_depth_rate=0.0)

    @jax.jit
    def probe(variables: Any, images: jax.Array) -> Any:
        _, state = model.apply(
            variables, images, train=has_batch_norm, mutable=[SIGNAL, "batch_stats"]
        )
        return state.get(SIGNAL, {})

    signal = jax.device_get(probe(variables, images))
    if "avg_var_0" not in signal:
        raise UserError(f"{type(model).__name__} has no signal propagation probes")
    blocks = sum(name.startswith("res_avg_var_") for name in signal)

    def series(name: str, length: int) -> np.ndarray:
        return np.array([signal[f"{name}_{i}"] for i in range(length)], np.float32)

    return SignalPropagation(
        avg_sq_mean=series("avg_sq_mean", blocks + 1),
        avg_var=series("avg_var", blocks + 1),
        res_avg_var=series("res_avg_var", blocks),
    )


def with_skip_gain(params: Any, value: float) -> Any:
    """``params`` with every skip gain set; at its initial 0 no residual would show."""

    def replace(path: Any, leaf: jax.Array) -> jax.Array:
        is_gain = getattr(path[-1], "key", None) == "skip_gain"
        return jax.numpy.full_like(leaf, value) if is_gain else leaf

    return jax.tree_util.tree_map_with_path(replace, params)


def plot_signal_propagation(result: SignalPropagation, path: str, title: str) -> None:
    """Writes the paper's three panels as an image; the suffix chooses the format."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            "plots need matplotlib: pip install 'nfnets-flax[train]'"
        ) from error
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    panels = figure.subplots(1, 3)
    series = [
        (result.avg_sq_mean, 0, "average channel squared mean"),
        (result.avg_var, 0, "average channel variance"),
        (result.res_avg_var, 1, "residual average channel variance"),
    ]
    for axes, (values, first, label) in zip(panels, series, strict=True):
        axes.plot(np.arange(first, first + len(values)), values, marker="o", ms=3)
        axes.set(xlabel="block (0: stem)", title=label)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
