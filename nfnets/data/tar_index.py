"""Where the image files of an uncompressed tar are, from one pass over its headers."""

from __future__ import annotations

import functools
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from nfnets.data import storage
from nfnets.data.folders import is_image
from nfnets.errors import UserError

# First bytes of compressed files, and what unpacks them.
_COMPRESSED = {
    b"\x1f\x8b": "gunzip -k",
    b"BZh": "bunzip2 -k",
    b"\xfd7zXZ": "unxz -k",
    b"\x28\xb5\x2f\xfd": "unzstd",
}


@dataclass(frozen=True)
class TarIndex:
    """The image files in a tar; about 150 bytes of memory each.

    Attributes:
        path: of the tar.
        names: of the members, as ``a/b/c.jpg``, without empty parts and dots. An image
            in the member ``b.tar`` is named ``b/...``.
        offsets: int64 ``[n]``, of the members' bytes in the file.
        sizes: int64 ``[n]``, in bytes.
    """

    path: str
    names: list[str]
    offsets: np.ndarray
    sizes: np.ndarray


def index_tar(path: str) -> TarIndex:
    """The image files of a tar; links, devices and hidden files do not count.

    Of members with the same name the last counts, as in unpacking. The second split
    that is opened finds the index of the first.

    Raises:
        UserError: missing, compressed, damaged, cut short, or without images.
    """
    try:
        found = os.stat(path)
        return _indexed(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}; check the path"
        ) from error


@functools.lru_cache(maxsize=2)
def _indexed(path: str, size: int, changed: int) -> TarIndex:
    del changed  # a tar that was replaced is read again
    places: dict[str, tuple[int, int]] = {}
    inner: list[tuple[str, int, int]] = []
    with open(path, "rb") as file:
        _refuse_compressed(path, file.read(6))
        for member in _members(file, path, 0, size):
            name = _clean(member.name)
            if name.endswith(".tar"):
                inner.append((name, member.offset_data, member.size))
            elif is_image(name.rpartition("/")[2]):
                places[name] = (member.offset_data, member.size)
        for name, start, length in inner:
            folder = name.removesuffix(".tar")
            for member in _members(file, f"{path}: {name}", start, start + length):
                name = f"{folder}/{_clean(member.name)}"
                if is_image(name.rpartition("/")[2]):
                    places[name] = (member.offset_data, member.size)
    if not places:
        raise UserError(f"{path} holds no image files; check that it is the right tar")
    table = np.array(list(places.values()), np.int64)
    return TarIndex(path, list(places), table[:, 0], table[:, 1])


def _members(
    file: BinaryIO, title: str, start: int, end: int
) -> Iterator[tarfile.TarInfo]:
    """The regular files of the tar in ``start..end - 1`` of a file.

    Raises:
        UserError: tarfile itself takes a damaged header for the end.
    """
    count = 0
    try:
        file.seek(start)
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                # Else each stays in memory, 1 KB. Not declared in typeshed.
                archive.members.clear()  # type: ignore[attr-defined]
                count += 1
                if member.offset_data + member.size > end:
                    raise tarfile.ReadError("a member ends after it")
                if member.issparse() and is_image(member.name.rpartition("/")[2]):
                    raise tarfile.ReadError(f"{member.name} is stored as a sparse file")
                if member.isreg():
                    yield member
            place = archive.offset
        block = storage.read_range(file.name, place, min(place + 512, end))
        if block != bytes(512):
            raise tarfile.ReadError(f"no header at byte {place}")
    except (tarfile.TarError, ValueError) as error:
        raise UserError(
            f"{title} is no whole tar file: {error}, after {count} members; copy it "
            "again, or make it with tar --format=pax"
        ) from error


def _clean(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def _refuse_compressed(path: str, head: bytes) -> None:
    for magic, command in _COMPRESSED.items():
        if head.startswith(magic):
            raise UserError(
                f"{path} is compressed, so that its images cannot be read one by one; "
                f"unpack it to a plain tar once: {command} {path}"
            )
