"""Weights in files: any known form in, ours out.

Ours is ``NAME.safetensors``, with names such as "params/stage1_block0/conv0/kernel",
and ``NAME.json`` beside it, which says of what model it is and its sha256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from nfnets.errors import UserError
from nfnets.flops import count_params_of
from nfnets.registry import create_model, get_variant
from nfnets.weights.channels import adapt_input_channels
from nfnets.weights.descriptions import (
    check_description,
    describe,
    description_path,
)
from nfnets.weights.hdf5 import read_hdf5, read_keras_archive
from nfnets.weights.naming import HEAD, check_ours, convert, is_statistic, naming_of
from nfnets.weights.pickles import read_pickle
from nfnets.weights.readers import (
    Kind,
    import_safetensors,
    kind_of,
    read_npz,
    read_safetensors,
)
from nfnets.weights.writing import local_path, output_path, write_files

# Weights hardly compress: what unpacks to more times its size is none.
MAX_RATIO = 4
# Of arrays that may be stored as float32 without losing bits.
_FLOATS = ("float32", "float16", "bfloat16")


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
    file = local_path(path)
    kind = kind_of(file)
    if kind == "safetensors":
        check_description(file, model_name)
    limit = max(MAX_RATIO * file.stat().st_size, _max_bytes(model_name, overrides))
    arrays = read_arrays(file, kind, limit)
    naming = "keras" if kind in ("hdf5", "keras") else naming_of(arrays)
    try:
        variables = convert(naming or "haiku", model_name, arrays, overrides=overrides)
        if in_channels is None:
            return variables
        return adapt_input_channels(variables, in_channels)
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def read_arrays(path: Path, kind: Kind, max_bytes: int) -> dict[str, np.ndarray]:
    """All arrays of a file under its own names.

    Args:
      path: the file.
      kind: from ``kind_of``.
      max_bytes: what they may take unpacked.

    Raises:
      UserError: it is damaged, or holds anything else.
    """
    match kind:
        case "pickle":
            return read_pickle(_read_bytes(path), str(path))
        case "npz":
            return read_npz(path, max_bytes)
        case "hdf5":
            return read_hdf5(path, max_bytes)
        case "keras":
            return read_keras_archive(path, max_bytes)
        case "safetensors":
            return read_safetensors(path)


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
    file = output_path(path, ".safetensors")
    arrays = checked_arrays(model_name, variables, overrides)
    data = import_safetensors().numpy.save(arrays)
    description = describe(
        model_name,
        overrides,
        num_classes=arrays[HEAD].size,
        parameters=sum(a.size for n, a in arrays.items() if not is_statistic(n)),
        sha256=hashlib.sha256(data).hexdigest(),
        metadata=metadata,
    )
    write_files({file: data, description_path(file): description})


def checked_arrays(
    model_name: str, variables: Mapping[str, Any], overrides: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Float32 arrays by our name, contiguous: safetensors mixes up others' elements.

    Raises:
      UserError: they are wider than float32, or not those of the model.
    """
    arrays = {}
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for name, leaf in jax.device_get(flat).items():
        array = np.asarray(leaf)
        if array.dtype.name not in _FLOATS:
            raise UserError(f"{name} is {array.dtype.name}, it should be float32")
        # Not ascontiguousarray, which gives scalars an axis.
        arrays[name] = np.array(array, np.float32, order="C")
    check_ours(model_name, arrays, overrides)
    return arrays


def _max_bytes(model_name: str, overrides: Mapping[str, Any]) -> int:
    """16 bytes a parameter, for files that are much smaller, as those of zeros are."""
    model = create_model(model_name, num_classes=1000, **overrides)
    row = get_variant(model_name, **overrides)
    return 16 * count_params_of(model, row.train_size)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
