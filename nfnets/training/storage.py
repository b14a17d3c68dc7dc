"""Paths, local or on Google Cloud Storage (``gs://``), as one kind of object."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from typing import Any

from etils import epath

from nfnets.data.storage import filesystem, is_url, scheme, write_local
from nfnets.errors import UserError


def as_path(text: str) -> epath.Path:
    """The path of a directory, which need not exist.

    Raises:
      UserError: it is on storage that is not known, or whose package is missing.
    """
    if is_url(text) and scheme(text) != "gs":
        raise UserError(f"{text} is neither a local path nor gs://BUCKET/PATH")
    if is_url(text):
        filesystem(text)
    return epath.Path(text).expanduser()


def is_remote(path: Any) -> bool:
    """Whether a path is on ``gs://``."""
    return is_url(os.fspath(path))


def write_atomically(path: epath.Path, content: str | bytes) -> None:
    """Writes a whole file or nothing; text is UTF-8.

    Raises:
      UserError: the disk is full or read-only, or the storage refuses; an older file
        stays as it was.
    """
    data = content.encode() if isinstance(content, str) else content
    with refusals_of("write", path):
        if is_remote(path):  # an object appears when it is complete
            path.write_bytes(data)
        else:
            write_local({os.fspath(path): data})


def make_folder(folder: epath.Path) -> None:
    """Makes a folder, and those above it; raises UserError where that fails."""
    with refusals_of("make the folder", folder):
        folder.mkdir(parents=True, exist_ok=True)


def check_writable(file: epath.Path) -> None:
    """Makes a file's folder, and checks that the file can be written when it is due.

    Raises:
      UserError: it is a folder, or the disk or the storage refuses.
    """
    probe = file.with_name(f".{uuid.uuid4().hex}.probe")
    with refusals_of("write", file, "; give another place"):
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        file.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()


@contextlib.contextmanager
def one_at_a_time(lock: epath.Path) -> Iterator[None]:
    """Waits until no other process of this machine is in a block with the same file.

    Remote storage and Windows have no such locks: there nobody waits.

    Args:
      lock: is made, and stays.

    Raises:
      UserError: the disk refuses.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    if is_remote(lock):
        yield
        return
    with contextlib.ExitStack() as stack:
        with refusals_of("write", lock):
            file = stack.enter_context(lock.open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def refusals_of(verb: str, path: Any, advice: str = "") -> Iterator[None]:
    """Turns what a disk or remote storage (of many types) raises into a UserError."""
    kinds = Exception if is_remote(path) else OSError
    try:
        yield
    except kinds as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:300]
        reason = reason or type(error).__name__
        raise UserError(f"cannot {verb} {path}: {reason}{advice}") from error
