"""The arrays in a file of weights, by its content: its name promises nothing.

The official files are called ``.npz`` and are pickles; a download that failed is a web
page under the right name.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nfnets.errors import UserError
from nfnets.weights.arrays import (
    Refused,
    check_count,
    check_name,
    is_plain,
    plain_array,
)

Kind = Literal["pickle", "npz", "safetensors", "hdf5", "keras"]


def kind_of(path: Path) -> Kind:
    """What the first bytes of a file promise.

    Raises:
      UserError: there is no such file, or it holds no weights; says what it is.
    """
    if path.is_dir():
        raise UserError(f"{path} is a directory; give the file of weights in it")
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is a device or a pipe; give a file of weights")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give a file of weights") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    if head[8:9] == b"{":  # after the length of the header
        return "safetensors"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        # The name of the first member comes after 30 bytes.
        return "keras" if head[30:].startswith(b"metadata.json") else "npz"
    if head[:1] in (b"\x80", b"(", b"}", b"c"):  # protocols 2 and later; 0 and 1
        return "pickle"
    raise UserError(_no_weights(path, head))


def _no_weights(path: Path, head: bytes) -> str:
    if not head:
        return f"{path} is empty; download it again"
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the weights; run: git lfs pull"
    if head.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        return f"{path} is a web page, not the weights; download the file itself"
    return (
        f"{path} is neither .safetensors, .npz, .h5, nor a pickle of arrays (it begins "
        f"with {head[:16]!r}); download it again"
    )


# What zipfile raises for damaged files: also for versions, encodings of names and kinds
# of encryption that do not exist.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
)


def read_npz(path: Path, max_bytes: int) -> dict[str, np.ndarray]:
    """The arrays of a real ``.npz``, a zip archive of ``.npy`` files.

    Args:
      path: the file.
      max_bytes: what it may take unpacked; small archives can hold huge members.

    Raises:
      UserError: it is damaged, unpacks to more, or holds something else.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            check_count(len(members))
            if sum(member.file_size for member in members) > max_bytes:
                raise Refused(f"it unpacks to more than {max_bytes} bytes")
            return dict(_npz_member(archive, member) for member in members)
    except (Refused, *_ZIP_ERRORS) as error:
        raise _unreadable(path, error) from error


def _npz_member(
    archive: zipfile.ZipFile, member: zipfile.ZipInfo
) -> tuple[str, np.ndarray]:
    name = check_name(member.filename)
    if not name.endswith(".npy"):
        raise Refused(f"its member {name} is not .npy")
    if member.flag_bits & 1:
        raise Refused(f"its member {name} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"its member {name} is compressed in an unusual way")
    try:
        return name.removesuffix(".npy"), _npy(archive.read(member))
    except Refused as refusal:
        raise Refused(f"its member {name} is not read ({refusal})") from refusal


def _npy(data: bytes) -> np.ndarray:
    """The array in the bytes of an ``.npy`` file; never an object array."""
    stream = io.BytesIO(data)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        with warnings.catch_warnings(action="ignore"):  # of headers of Python 2
            version = np.lib.format.read_magic(stream)
            shape, is_fortran, dtype = readers[version](stream)
    except Exception as error:  # the header is a Python literal: it raises many types
        raise Refused(f"{type(error).__name__} in its header") from error
    order = "F" if is_fortran else "C"
    return plain_array(data[stream.tell() :], dtype, shape, order)


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a ``.safetensors`` file.

    Raises:
      UserError: it is damaged or holds no plain arrays, or the package is missing.
    """
    package = import_safetensors()
    arrays = {}
    try:
        with package.safe_open(path, framework="np") as file:
            names = list(file.keys())
            check_count(len(names))
            for name in names:
                arrays[check_name(name)] = _plain(file, name)
    except (Refused, package.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return arrays


def _plain(file: Any, name: str) -> np.ndarray:
    try:
        array = file.get_tensor(name)
    except (AttributeError, TypeError) as error:  # types that NumPy does not have
        raise Refused(f"its {name} is not read ({error})") from error
    if not is_plain(array.dtype):
        raise Refused(f"its {name} is of dtype {array.dtype}")
    return array


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"cannot read {path}: {reason}; download or convert it again")


def import_safetensors() -> Any:
    """The package, with its NumPy functions under ``safetensors.numpy``.

    Raises:
      UserError: it is not installed.
    """
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise UserError(
            "safetensors is needed for .safetensors files and is not installed; "
            "run: pip install 'nfnets-flax[train]'"
        ) from error
    return safetensors
