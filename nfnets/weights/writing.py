"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nfnets.data.storage import write_local
from nfnets.errors import UserError


def local_path(path: str | os.PathLike[str]) -> Path:
    """A path of this machine; raises UserError for ``gs://`` and the like."""
    if "://" in str(path):
        raise UserError(f"{path} is not on this machine; give a local file")
    return Path(path).expanduser()


def output_path(path: str | os.PathLike[str], *suffixes: str) -> Path:
    """A path to write to; raises UserError unless it ends in one of the suffixes."""
    file = local_path(path)
    if file.is_dir():
        raise UserError(f"{file} is a directory; give the name of a file")
    if not file.name.endswith(suffixes):
        raise UserError(f"{file} should end in {' or '.join(suffixes)}")
    return file


def write_files(contents: Mapping[Path, bytes]) -> None:
    """``write_local``; raises UserError where the files cannot be written."""
    try:
        write_local({str(file): data for file, data in contents.items()})
    except OSError as error:
        main = next(iter(contents))
        raise UserError(f"cannot write {main}: {error.strerror}") from error
