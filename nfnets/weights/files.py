"""Weights in files: any known form in, one form out.

Ours is ``NAME.safetensors``, with names such as "params/stage1_block0/conv0/kernel",
and ``NAME.json`` beside it, which says of what model it is and its sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import abstract_variables, count_params_of
from nfnets.registry import create_model, get_variant
from nfnets.weights.channels import adapt_input_channels, input_channels
from nfnets.weights.haiku import convert_haiku
from nfnets.weights.hdf5 import read_hdf5, read_keras_archive
from nfnets.weights.keras import convert_keras, is_keras
from nfnets.weights.matching import check_names
from nfnets.weights.pickles import read_pickle
from nfnets.weights.readers import (
    import_safetensors,
    kind_of,
    read_npz,
    read_safetensors,
)
from nfnets.weights.timm import convert_timm, is_timm

FORMAT_VERSION = 1

# Of arrays that may be stored as float32 without losing bits.
_FLOATS = ("float32", "float16", "bfloat16")
_HEAD = "params/head/bias"  # as long as there are classes
_MAX_DESCRIPTION = 2**20


def load_weights(
    model_name: str,
    path: str | os.PathLike[str],
    *,
    overrides: Mapping[str, Any] = {},
    in_channels: int | None = None,
) -> dict[str, Any]:
    """The variables of a model out of a file, whatever the file is called.

    Reads the official Haiku files, which are pickles (without running them), Keras's
    files, and real ``.npz`` files and ``.safetensors`` with official names, timm's,
    Keras's or ours. The number of classes is that of the file. If ``NAME.json`` lies
    beside ``NAME.safetensors``, the file must be the one that it describes.

    Args:
      model_name: one of ``registry.list_models()``.
      path: a local file.
      overrides: fields of the model's row that it was trained with, as for
        ``create_model``.
      in_channels: of the images: weights for 3 channels are adapted to them, by
        `adapt_input_channels`. None: those of the file.

    Returns:
      ``{"params": ...}``, with BatchNorm also ``batch_stats``; float32 numpy arrays.

    Raises:
      UserError: it cannot be read, or holds the weights of another network.
    """
    get_variant(model_name, **overrides)  # raises for unknown names
    file = _local(path)
    kind = kind_of(file)
    match kind:
        case "pickle":
            arrays = read_pickle(_read_bytes(file), str(file))
        case "npz":
            arrays = read_npz(file, _max_bytes(model_name, overrides))
        case "hdf5":
            arrays = read_hdf5(file, _max_bytes(model_name, overrides))
        case "keras":
            arrays = read_keras_archive(file, _max_bytes(model_name, overrides))
        case "safetensors":
            _check_description(file, model_name)
            arrays = read_safetensors(file)
    try:
        if kind in ("hdf5", "keras"):
            variables = convert_keras(model_name, arrays, overrides=overrides)
        else:
            variables = _variables(model_name, arrays, overrides)
        if in_channels is None:
            return variables
        return adapt_input_channels(variables, in_channels)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def save_weights(
    model_name: str,
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str | int | float] = {},
    *,
    overrides: Mapping[str, Any] = {},
) -> None:
    """Writes variables as ``NAME.safetensors``, described by ``NAME.json``.

    Both appear whole or not at all; files of these names are replaced.

    Args:
      model_name: one of ``registry.list_models()``.
      variables: of that model, float32 or narrower; stored as float32.
      path: ends in ``.safetensors``.
      metadata: anything worth knowing, e.g. top-1 or the source.
      overrides: fields of the model's row that it was trained with.

    Raises:
      UserError: these are not the variables of the model, or cannot be written.
    """
    file = _local(path)
    if file.is_dir():
        raise UserError(f"{file} is a directory; give the name of a file")
    if file.suffix != ".safetensors":
        raise UserError(f"{file} should end in .safetensors")
    arrays = _stored(variables)
    _check_arrays(model_name, arrays, overrides)
    data = import_safetensors().numpy.save(arrays)
    description = {
        "format_version": FORMAT_VERSION,
        "model": model_name,
        "model_overrides": dict(overrides),
        "num_classes": arrays[_HEAD].size,
        "parameters": sum(a.size for n, a in arrays.items() if n[:7] == "params/"),
        "sha256": hashlib.sha256(data).hexdigest(),
        "metadata": _checked_metadata(metadata),
    }
    _write(file, data, json.dumps(description, indent=2, allow_nan=False) + "\n")


def description_path(path: Path) -> Path:
    """``NAME.json`` of ``NAME.safetensors``."""
    return path.with_suffix(".json")


def _variables(
    model_name: str, arrays: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> dict[str, Any]:
    """Our variables from arrays under official names or ours, checked."""
    if any(name.startswith("params/") for name in arrays):
        _check_arrays(model_name, arrays, overrides)
        flat = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
        return traverse_util.unflatten_dict(flat, sep="/")
    if is_keras(arrays):
        return convert_keras(model_name, arrays, overrides=overrides)
    if is_timm(arrays):
        return convert_timm(model_name, arrays, overrides=overrides)
    return convert_haiku(model_name, arrays, overrides=overrides)


def _stored(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Float32 arrays by name, contiguous: safetensors mixes up the others' elements."""
    arrays = {}
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for name, leaf in jax.device_get(flat).items():
        array = np.asarray(leaf)
        if array.dtype.name not in _FLOATS:
            raise UserError(f"{name} is {array.dtype.name}, it should be float32")
        # Not ascontiguousarray, which gives scalars an axis.
        arrays[name] = np.array(array, np.float32, order="C")
    return arrays


def _check_arrays(
    model_name: str, arrays: Mapping[str, np.ndarray], overrides: Mapping[str, Any]
) -> None:
    """Raises UserError unless these are all arrays of the model, under our names."""
    if _HEAD not in arrays or arrays[_HEAD].ndim != 1:
        raise UserError(f"not the weights of {model_name}: {_HEAD} is missing")
    model = create_model(model_name, num_classes=arrays[_HEAD].size, **overrides)
    row = get_variant(model_name, **overrides)
    abstract = abstract_variables(model, row.train_size, input_channels(arrays))
    flat = traverse_util.flatten_dict(abstract, sep="/")
    wanted = {name: leaf.shape for name, leaf in flat.items()}
    check_names(model_name, wanted, arrays)


def _local(path: str | os.PathLike[str]) -> Path:
    if "://" in str(path):
        raise UserError(f"{path} is not on this machine; give a local file")
    return Path(path).expanduser()


def _max_bytes(model_name: str, overrides: Mapping[str, Any]) -> int:
    """16 bytes a parameter: float64, and twice as many for other numbers of classes."""
    model = create_model(model_name, num_classes=1000, **overrides)
    row = get_variant(model_name, **overrides)
    return 16 * count_params_of(model, row.train_size)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _check_description(path: Path, model_name: str) -> None:
    """Checks a file against the ``.json`` beside it, if there is one."""
    description = description_path(path)
    if not description.exists():
        return
    try:
        with description.open("rb") as file:
            content = json.loads(file.read(_MAX_DESCRIPTION))
        version, model = content["format_version"], content["model"]
        expected = content["sha256"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise UserError(
            f"{description} does not describe weights ({type(error).__name__}); get it "
            f"again, or remove it to read {path.name} unchecked"
        ) from error
    if version != FORMAT_VERSION:
        raise UserError(
            f"{description} has the format version {str(version)[:20]}, this program "
            f"reads {FORMAT_VERSION}; use a newer one"
        )
    if model != model_name:
        raise UserError(
            f"{path} holds the weights of {str(model)[:60]!r}, not of {model_name}"
        )
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{path} is not the file that {description.name} describes: its sha256 is "
            f"{found[:12]}..., not {str(expected)[:12]}...; get both again"
        )


def _checked_metadata(
    metadata: Mapping[str, str | int | float],
) -> dict[str, str | int | float]:
    for key, value in metadata.items():
        is_number = isinstance(value, int | float) and math.isfinite(value)
        if not isinstance(key, str) or not (is_number or isinstance(value, str)):
            raise UserError(
                f"metadata {key!r} is {value!r}, it should be a string or a number"
            )
    return dict(metadata)


def _write(path: Path, data: bytes, description: str) -> None:
    """Writes both files; a crash leaves none of them half, nor a wrong pair."""
    beside = description_path(path)
    temporary = [file.with_name(file.name + ".tmp") for file in (path, beside)]
    try:
        temporary[0].write_bytes(data)
        temporary[1].write_text(description, encoding="utf-8")
        # Between these lines, weights without a description: never with another's.
        beside.unlink(missing_ok=True)
        os.replace(temporary[0], path)
        os.replace(temporary[1], beside)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error
    finally:
        for file in temporary:
            with contextlib.suppress(OSError):
                file.unlink(missing_ok=True)
