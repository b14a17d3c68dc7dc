"""Files that Keras's ``load_weights`` reads, written without Keras.

``NAME.h5`` is the layout of the released files, which Keras 2 and 3 read: a group per
layer, in order. ``NAME.weights.h5`` is that of Keras 3: layers numbered by class.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from nfnets.weights.hdf5 import import_h5py
from nfnets.weights.keras import KerasArray

Arrays = Sequence[tuple[KerasArray, np.ndarray]]

# EfficientNet V1 begins with layers x / 255 and (x - mean) / sqrt(variance), of which
# the second has variables: ImageNet's mean and std, as every model here is trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_NORMALIZATION: dict[str, np.ndarray] = {
    "mean": np.array(_MEAN, np.float32),
    "variance": np.square(np.array(_STD)).astype(np.float32),
    "count": np.array(0, np.int32),
}


def keras_bytes(arrays: Arrays, *, numbered: bool, normalizes: bool) -> bytes:
    """The content of a file of Keras.

    Args:
      arrays: all variables of a model, in Keras's order.
      numbered: the layout, ``.weights.h5`` or ``.h5``.
      normalizes: whether the model has a layer ``normalization`` with variables.
    """
    first = _NORMALIZATION if normalizes else {}
    content = io.BytesIO()
    with import_h5py().File(content, "w") as file:
        if numbered:
            before = {f"normalization/{i}": a for i, a in enumerate(first.values())}
            _write_numbered(
                file, before | {array.numbered: value for array, value in arrays}
            )
        else:
            before = {f"normalization/{name}": array for name, array in first.items()}
            _write_named(file, before | {array.name: value for array, value in arrays})
    return content.getvalue()


def _write_named(file: Any, arrays: dict[str, np.ndarray]) -> None:
    """``<layer>/<layer>/<variable>:0``; the order is that of lists in attributes."""
    layers: dict[str, list[str]] = {}
    for name, array in arrays.items():
        layer = name.partition("/")[0]
        layers.setdefault(layer, []).append(f"{name}:0")
        file[f"{layer}/{name}:0"] = array
    for layer, names in layers.items():
        file[layer].attrs["weight_names"] = np.array(names, "S")
    file.attrs["layer_names"] = np.array(list(layers), "S")
    # Without them, Keras takes the arrays for those of Keras 1, and changes some.
    file.attrs["keras_version"] = np.bytes_("2.0.0")
    file.attrs["backend"] = np.bytes_("tensorflow")


def _write_numbered(file: Any, arrays: dict[str, np.ndarray]) -> None:
    """``layers/<class>_<number>/vars/<number>``."""
    for name, array in arrays.items():
        layer, _, number = name.partition("/")
        file[f"layers/{layer}/vars/{number}"] = array
