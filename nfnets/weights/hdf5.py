"""The arrays in the files of Keras: ``.h5``, ``.weights.h5`` and ``.keras``.

Three layouts: a group per layer with named arrays in it (Keras 1 and 2, ``model.save``
to HDF5), perhaps under ``model_weights``; ``layers/<layer>/vars/<number>`` (Keras 3);
and a zip archive with the latter in it (``.keras``). Nothing is followed out of the
file, and nothing larger than what the network has is read.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nfnets.errors import UserError
from nfnets.weights.arrays import Refused, check_count, check_name, is_plain

# In Keras 3, and in the versions of Keras 2 that wrote this layout.
_LAYERS = ("layers", "_layer_checkpoint_dependencies")
_ARCHIVED = "model.weights.h5"
_MAX_DEPTH = 8  # of groups in groups
_MAX_NODES = 20_000  # EfficientNetV2-L comes to some 4000
# What h5py raises for damaged files.
_ERRORS = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError)


def read_hdf5(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """The variables of a Keras model in an HDF5 file.

    Args:
      path: the file.
      max_bytes: what all arrays may take; small files can hold huge ones.

    Returns:
      "<layer>/<variable>" to array. In the layout of Keras 3 both are numbers: layers
      of a class in their order, such as "conv2d_3", and variables of a layer.

    Raises:
      UserError: it is damaged or holds something else, or h5py is missing.
    """
    package = import_h5py()
    try:
        with package.File(path, "r") as file:
            return _arrays(package, file, max_bytes)
    except (Refused, *_ERRORS) as error:
        raise _unreadable(path, error) from error


def read_keras_archive(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """As `read_hdf5`, of the weights in a ``.keras`` archive."""
    package = import_h5py()
    try:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo(_ARCHIVED)
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise Refused(f"its {_ARCHIVED} is compressed in an unusual way")
            # An optimizer's state is in there too.
            if member.file_size > 4 * max_bytes:
                raise Refused(f"its {_ARCHIVED} unpacks to {member.file_size} bytes")
            content = io.BytesIO(archive.read(member))
        with package.File(content, "r") as file:
            return _arrays(package, file, max_bytes)
    except (Refused, zipfile.BadZipFile, zlib.error, EOFError, *_ERRORS) as error:
        raise _unreadable(path, error) from error


def import_h5py() -> Any:
    """The package.

    Raises:
      UserError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            "h5py is needed for the files of Keras and is not installed; "
            "run: pip install 'nfnets-flax[keras]'"
        ) from error
    return h5py


def _arrays(h5py: Any, file: Any, max_bytes: int) -> dict[str, np.ndarray]:
    root = _child(h5py, file, "model_weights") if "model_weights" in file else file
    layers = next((name for name in _LAYERS if name in root), None)
    if layers is not None:
        datasets = _numbered(h5py, _child(h5py, root, layers))
    else:
        datasets = _named(h5py, root)
    arrays: dict[str, np.ndarray] = {}
    left = max_bytes
    for name, dataset in datasets:
        if name in arrays:
            raise Refused(f"it has two arrays called {name}")
        left -= _checked_size(h5py, name, dataset)
        if left < 0:
            raise Refused(f"its arrays take more than {max_bytes} bytes")
        arrays[name] = np.asarray(dataset[()])
    return arrays


def _named(h5py: Any, root: Any) -> Iterator[tuple[str, Any]]:
    """Every array below a layer's group; its own name is the last part of its path.

    The lists of names that Keras keeps in attributes are not needed, and the HDF5
    library crashes on damaged attributes.
    """
    for visited, (path, node) in enumerate(_walk(h5py, root, "")):
        if visited >= _MAX_NODES:  # groups may hold each other
            raise Refused(f"it has more than {_MAX_NODES} groups and arrays")
        if not isinstance(node, h5py.Group):
            layer, _, inner = path.partition("/")
            yield f"{check_name(layer)}/{check_name(inner.rpartition('/')[2])}", node


def _walk(h5py: Any, group: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(path, group or array) of all that is in a group."""
    if path.count("/") > _MAX_DEPTH:
        raise Refused(f"its groups are too deep: {path[:40]!r}")
    for name in group:
        node = _child(h5py, group, name)
        yield f"{path}{name}", node
        if isinstance(node, h5py.Group):
            yield from _walk(h5py, node, f"{path}{name}/")


def _numbered(h5py: Any, layers: Any) -> Iterator[tuple[str, Any]]:
    """Variables of Keras 3, numbered, in layers numbered by their class."""
    check_count(len(layers))
    for layer in layers:
        group = _child(h5py, layers, layer)
        if not isinstance(group, h5py.Group) or "vars" not in group:
            continue
        variables = _child(h5py, group, "vars")
        for number in variables:
            node = _child(h5py, variables, number)
            yield f"{check_name(layer)}/{check_name(number)}", node


def _child(h5py: Any, group: Any, name: str) -> Any:
    """What a group has under a name, if it is in this very file."""
    if not isinstance(group, h5py.Group):
        raise Refused(f"{name[:40]!r} is looked for in something that is no group")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise Refused(f"{name[:40]!r} is missing, or a link to elsewhere")
    return group[name]


def _checked_size(h5py: Any, name: str, dataset: Any) -> int:
    """Bytes of a dataset, once it is known to be plain numbers in the file itself."""
    if not isinstance(dataset, h5py.Dataset):
        raise Refused(f"{name} is no array")
    if dataset.is_virtual or dataset.external:
        raise Refused(f"the numbers of {name} are in another file")
    made = dataset.id.get_create_plist()
    filters = {made.get_filter(i)[0] for i in range(made.get_nfilters())}
    if not filters <= {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE}:
        raise Refused(f"{name} is compressed in an unusual way")
    if dataset.shape is None or not is_plain(dataset.dtype):
        raise Refused(f"{name} is no array of numbers")
    return math.prod(dataset.shape) * dataset.dtype.itemsize


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"cannot read {path}: {reason}; download or convert it again")
