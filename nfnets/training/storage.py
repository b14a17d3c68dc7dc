"""Paths, local or on Google Cloud Storage (``gs://``), as one kind of object."""

from __future__ import annotations

import contextlib
import os
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
    if is_remote(path):  # an object appears when it is complete
        with refusals_of("write", path):
            path.write_bytes(data)
        return
    try:
        write_local({os.fspath(path): data})
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from error


@contextlib.contextmanager
def refusals_of(verb: str, path: Any) -> Any:
    """Turns what remote storage raises, of many types, into a UserError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(f"cannot {verb} {path}: {reason}") from error
