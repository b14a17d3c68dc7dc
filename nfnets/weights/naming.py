"""Whose names arrays have, and the variables that they are of one of our models."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables
from nfnets.registry import create_model, get_variant
from nfnets.weights.channels import input_channels
from nfnets.weights.haiku import convert_haiku, is_haiku
from nfnets.weights.keras import convert_keras, is_keras
from nfnets.weights.matching import check_names
from nfnets.weights.timm import convert_timm, is_timm

Naming = Literal["ours", "timm", "keras", "haiku"]

HEAD = "params/head/bias"  # as long as there are classes
_FOREIGN = {"timm": convert_timm, "keras": convert_keras, "haiku": convert_haiku}

# What is no parameter: BatchNorm's averages, and those of Keras's input normalisation,
# under the names of any of the four.
_STATISTIC = re.compile(
    r"batch_stats/.*"
    r"|.*\.(running_mean|running_var|num_batches_tracked)"
    r"|.*/(moving_mean|moving_variance)(:0)?|batch_normalization(_\d+)?/[23]"
    r"|.*/~/(mean|var)_ema/(average|hidden|counter)"
    r"|normalization(_\d+)?/.*"
)
# A name's beginning that says which residual block it is in.
_BLOCKS: dict[Naming, re.Pattern[str]] = {
    "ours": re.compile(r"\w+/((?:stage\d+_)?block\d+)/"),
    "timm": re.compile(r"(layer\d+\.\d+|blocks(?:\.\d+){1,2}|s\d+\.b\d+)\."),
    "keras": re.compile(r"(block\d+[a-z])_"),
    "haiku": re.compile(r"\w+/~/(\w*block\w*)/"),
}


def naming_of(names: Iterable[str]) -> Naming | None:
    """Whose names these are; None for those of none of the four."""
    names = list(names)
    if any(name.startswith("params/") for name in names):
        return "ours"
    if is_keras(names):
        return "keras"
    if is_timm(names):
        return "timm"
    return "haiku" if is_haiku(names) else None


def convert(
    naming: Naming,
    model_name: str,
    arrays: Mapping[str, np.ndarray],
    *,
    overrides: Mapping[str, Any] = {},
) -> dict[str, Any]:
    """Our variables of a model from arrays with names of some kind; float32.

    Raises:
      UserError: they are not those of the model.
    """
    if naming != "ours":
        return _FOREIGN[naming](model_name, arrays, overrides=overrides)
    check_ours(model_name, arrays, overrides)
    flat = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    return traverse_util.unflatten_dict(flat, sep="/")


def check_ours(
    model_name: str, arrays: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> None:
    """Raises UserError unless these are all arrays of the model, under our names."""
    if HEAD not in arrays or arrays[HEAD].ndim != 1:
        raise UserError(f"not the weights of {model_name}: {HEAD} is missing")
    model = create_model(model_name, num_classes=arrays[HEAD].size, **overrides)
    row = get_variant(model_name, **overrides)
    abstract = abstract_variables(model, row.train_size, input_channels(arrays))
    flat = traverse_util.flatten_dict(abstract, sep="/")
    wanted = {name: leaf.shape for name, leaf in flat.items()}
    check_names(model_name, wanted, arrays)


def count_blocks_in(naming: Naming, names: Iterable[str]) -> int | None:
    """Residual blocks that the names are of; None where none says it."""
    pattern = _BLOCKS[naming]
    return len({m[1] for name in names if (m := pattern.match(name))}) or None


def is_statistic(name: str) -> bool:
    """Whether an array is not trained: a running average, or its counter."""
    return _STATISTIC.fullmatch(name) is not None
