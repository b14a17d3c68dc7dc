"""Weights of networks for RGB images, for images of another number of channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from nfnets.errors import UserError
from nfnets.nf_layers import standardize_weight

_STEMS = ("stem_conv", "stem_conv0", "patch_embed")  # the modules that see images


def adapt_input_channels(
    variables: Mapping[str, Any], in_channels: int
) -> dict[str, Any]:
    """Variables for images of ``in_channels``, by timm's rule.

    One channel gets the sum of the kernels of R, G and B: a gray image then gives what
    its copy to three equal channels gave. Channel i of more (or of two) gets the kernel
    of channel i modulo 3, times 3 / ``in_channels``. It is the standardised kernel that
    is summed or repeated where the first convolution is weight-standardised (in timm
    the stored one, whose norm standardisation restores: another function). Such a
    kernel has mean 0; of a repeated one that has not, as 3 does not divide
    ``in_channels``, the mean is dropped.

    Args:
      variables: of a network for ``in_channels``, or for 3; float32 arrays.
      in_channels: of the images, at least 1.

    Raises:
      UserError: the variables are for neither number of channels.
    """
    params = variables["params"]
    name = next(name for name in _STEMS if name in params)
    stem = params[name]
    found = stem["kernel"].shape[-2]
    if found == in_channels:
        return dict(variables)
    if found != 3 or in_channels < 1:
        raise UserError(
            f"weights for images of {found} channels cannot be made those for "
            f"{in_channels}; only weights for 3 channels can be adapted, to 1 or more"
        )
    adapt = _adapt_standardized if "gain" in stem else _adapt_plain
    return {**variables, "params": {**params, name: adapt(stem, in_channels)}}


def input_channels(arrays: Mapping[str, np.ndarray]) -> int:
    """The channels that arrays under our names are for; 3 where they do not tell."""
    for name in _STEMS:
        kernel = arrays.get(f"params/{name}/kernel")
        if kernel is not None and kernel.ndim == 4:
            return max(1, kernel.shape[2])
    return 3


def _adapt_plain(stem: Mapping[str, Any], in_channels: int) -> dict[str, Any]:
    return {**stem, "kernel": _spread(np.asarray(stem["kernel"]), in_channels)}


def _adapt_standardized(stem: Mapping[str, Any], in_channels: int) -> dict[str, Any]:
    """A kernel of length 1 and a gain whose standardised kernel is the wanted one."""
    weight = np.asarray(standardize_weight(stem["kernel"], stem["gain"]))
    kernel = _spread(weight, in_channels)
    kernel = kernel - kernel.mean(axis=(0, 1, 2), keepdims=True)
    gain = np.sqrt(np.square(kernel).sum(axis=(0, 1, 2)))  # [D]
    kernel = kernel / np.where(gain > 0, gain, 1).reshape(1, 1, 1, -1)
    return {**stem, "kernel": kernel, "gain": gain}


def _spread(kernel: np.ndarray, in_channels: int) -> np.ndarray:
    """[kh, kw, 3, D] -> [kh, kw, in_channels, D]."""
    if in_channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    chosen = kernel[:, :, np.arange(in_channels) % 3]
    return chosen * np.float32(3 / in_channels)
