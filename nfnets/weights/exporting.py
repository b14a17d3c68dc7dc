"""Our variables in files that other programs read: timm, DeepMind's code, Keras."""

from __future__ import annotations

import fnmatch
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from flax import traverse_util

from nfnets.weights import haiku, keras, timm
from nfnets.weights.files import checked_arrays
from nfnets.weights.keras_files import keras_bytes
from nfnets.weights.readers import import_safetensors
from nfnets.weights.writing import output_path, write_files

Program = Literal["timm", "haiku", "keras"]

# Python 3.4 and later read it.
_PROTOCOL = 4


def export_weights(
    model_name: str,
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    program: Program,
    *,
    overrides: Mapping[str, Any] = {},
) -> None:
    """Writes variables for another program; the file appears whole or not at all.

    Args:
      model_name: one of ``registry.list_models()`` that the program has too.
      variables: of that model, float32 or narrower.
      path: for timm ``.safetensors``, for Keras ``.weights.h5`` (Keras 3) or ``.h5``
        (also Keras 2), for Haiku ``.pkl`` or, as DeepMind calls them, ``.npz``.
      program: who is to read it.
      overrides: fields of the model's row that it was trained with.

    Raises:
      UserError: the program has no such network, or the file cannot be written.
    """
    writer = _WRITERS[program]
    writer.names_of(model_name)  # raises where the program has no such network
    file = output_path(path, *writer.suffixes)
    arrays = checked_arrays(model_name, variables, overrides)
    ours = traverse_util.unflatten_dict(arrays, sep="/")
    write_files({file: writer.content(model_name, ours, file)})


def _timm_bytes(model_name: str, variables: Mapping[str, Any], _: Path) -> bytes:
    """A state dict; "pt" tells readers of the header that layouts are PyTorch's."""
    arrays = timm.export_timm(model_name, variables)
    content: bytes = import_safetensors().numpy.save(arrays, {"format": "pt"})
    return content


def _haiku_bytes(model_name: str, variables: Mapping[str, Any], _: Path) -> bytes:
    """A pickle of {module: {parameter: array}}, parameters and state in one."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, array in haiku.export_haiku(model_name, variables).items():
        module, parameter = name.rsplit("/", 1)
        modules.setdefault(module, {})[parameter] = array
    return pickle.dumps(modules, _PROTOCOL)


def _keras_bytes(model_name: str, variables: Mapping[str, Any], path: Path) -> bytes:
    return keras_bytes(
        keras.export_keras(model_name, variables),
        numbered=path.name.endswith(".weights.h5"),
        normalizes=fnmatch.fnmatchcase(model_name, "effnet_*"),
    )


class _Writer(NamedTuple):
    names_of: Callable[[str], Any]
    suffixes: tuple[str, ...]  # what a file may be called
    content: Callable[[str, Mapping[str, Any], Path], bytes]


_WRITERS: dict[Program, _Writer] = {
    "timm": _Writer(timm.names_of, (".safetensors",), _timm_bytes),
    "haiku": _Writer(haiku.names_of, (".pkl", ".npz"), _haiku_bytes),
    "keras": _Writer(keras.names_of, (".h5",), _keras_bytes),
}
