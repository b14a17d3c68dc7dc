"""Files on a local disk or behind a URL such as ``gs://bucket/folder``.

URLs go through fsspec, whose reads may be called from any thread; nothing of it is
imported for local paths.
"""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nfnets.errors import UserError

# Packages that fsspec needs for a scheme, and what installs them.
_PACKAGES = {"gs": "gcsfs", "gcs": "gcsfs"}
_INSTALL = {"gcsfs": "pip install 'nfnets-flax[gcs]'"}
# What fsspec file systems call a file's fingerprint, the best first.
_STAMPS = ("md5Hash", "crc32c", "ETag", "etag", "mtime", "created")


@dataclass(frozen=True)
class FileStat:
    """One entry of a folder.

    Attributes:
        size: in bytes; ``None`` marks a folder.
        stamp: changes when the content does: the modification time in whole seconds
            (archives keep no more), behind a URL the store's own checksum or time.
    """

    size: int | None
    stamp: str


def is_url(path: str) -> bool:
    """Whether the path goes through fsspec."""
    return "://" in path


def scheme(path: str) -> str:
    """``gs`` for gs://...; ``file`` for local paths."""
    return path.partition("://")[0] if is_url(path) else "file"


def join(folder: str, *names: str) -> str:
    """Path of a file in a folder, local or URL."""
    if is_url(folder):
        return "/".join([folder.rstrip("/"), *names])
    return os.path.join(folder, *names)


def list_folder(path: str) -> dict[str, FileStat]:
    """What is directly in a folder, by name.

    Raises:
        FileNotFoundError: there is no such folder.
        UserError: a package or the permission to read it is missing.
    """
    if is_url(path):
        return _list_url(path)
    try:
        with os.scandir(path) as entries:
            return {entry.name: _local_stat(entry) for entry in entries}
    except NotADirectoryError as error:
        raise UserError(f"{path} is a file; a folder is expected") from error
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}; check its permissions") from error


def read_file(path: str) -> bytes:
    """The whole file; ``FileNotFoundError`` or a UserError where that fails."""
    if is_url(path):
        return _remote(path, "cat_file")
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def read_range(path: str, start: int, end: int) -> bytes:
    """Bytes ``start..end - 1``, fewer where the file ends before; safe in threads.

    Raises:
        UserError: the file is gone or its disk or network does not answer.
    """
    try:
        if is_url(path):
            return _remote(path, "cat_file", start=start, end=end)
        # Opened each time (about 10 us): thousands of shards would exceed the limit
        # of open files. Unlike a memory map, it leaves the other threads running.
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(end - start)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be read: {reason}; check the data") from error


def write_file(path: str, data: bytes) -> None:
    """Writes a file so that readers see the old or the new content, never a part.

    Raises:
        OSError: the place cannot be written to; nothing of the attempt is left.
    """
    if is_url(path):
        try:
            filesystem(path).pipe_file(path, data)  # an object appears when complete
        except UserError:
            raise
        except Exception as error:  # each store has its own types
            raise OSError(f"{path} cannot be written: {_one_line(error)}") from error
        return
    write_local({path: data})


def write_local(contents: Mapping[str, bytes]) -> None:
    """Writes files of one local folder; a crash or a power loss leaves none half.

    Args:
        contents: by path. The first file is what matters, the others only describe it:
            in between it may stand alone, but never beside descriptions of another.

    Raises:
        OSError: the place cannot be written to; nothing of the attempt is left.
    """
    # Its own names, so that processes that write the same file do not share them.
    suffix = f".{uuid.uuid4().hex}.tmp"
    temporary = {path: path + suffix for path in contents}
    _, *others = contents
    try:
        for path, data in contents.items():
            _write_through(temporary[path], data)
        for path in others:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                os.remove(leftover)


def _write_through(path: str, data: bytes) -> None:
    """Returns when the disk has the data: a rename may reach it before they do."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def filesystem(url: str) -> Any:
    """The fsspec file system of a URL; a UserError names the package it lacks."""
    name = scheme(url)
    package = _PACKAGES.get(name, f"the fsspec package for {name}://")
    install = _INSTALL.get(package, f"install it, or copy {url} to a local disk")
    # Its own tracebacks would bury the one line that is made of the same error.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
    try:
        import fsspec

        return fsspec.filesystem(name)
    except ImportError as error:
        raise UserError(
            f"{package} is needed for {url} and is not installed; run: {install}"
            if package in _INSTALL
            else f"{package} is needed for {url}: {_one_line(error)}; {install}"
        ) from error
    except ValueError as error:  # an unknown scheme
        raise UserError(f"{url}: {_one_line(error)}; expected gs://...") from error


def _list_url(path: str) -> dict[str, FileStat]:
    filesystem(path).invalidate_cache()
    entries = _remote(path, "ls", detail=True)
    return {
        entry["name"].rstrip("/").rpartition("/")[2]: FileStat(
            size=None if entry["type"] == "directory" else int(entry["size"]),
            stamp=next((str(entry[key]) for key in _STAMPS if entry.get(key)), ""),
        )
        for entry in entries
    }


def _local_stat(entry: os.DirEntry[str]) -> FileStat:
    if entry.is_dir():
        return FileStat(None, "")
    try:
        found = entry.stat()
    except FileNotFoundError:  # a dangling link, or removed since it was listed
        return FileStat(0, "")
    return FileStat(found.st_size, str(int(found.st_mtime)))


def _remote(path: str, method: str, **options: Any) -> Any:
    """Calls a method of the URL's file system; errors become one line."""
    call = getattr(filesystem(path), method)
    try:
        return call(path, **options)
    except FileNotFoundError:
        raise
    except Exception as error:  # each store has its own types
        raise UserError(
            f"{path} cannot be read: {_one_line(error)}; check its name, the network "
            "and your access (for gs://: gcloud auth application-default login)"
        ) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
