"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

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
    """Writes files of one folder; a crash leaves none of them half, nor a wrong pair.

    Args:
      contents: the first is what matters, the others only describe it: in between it
        may stand alone, but never beside descriptions of another.

    Raises:
      UserError: they cannot be written.
    """
    main, *others = contents
    temporary = {file: file.with_name(file.name + ".tmp") for file in contents}
    try:
        for file, data in contents.items():
            temporary[file].write_bytes(data)
        for file in others:
            file.unlink(missing_ok=True)
        for file in contents:
            os.replace(temporary[file], file)
    except OSError as error:
        raise UserError(f"cannot write {main}: {error.strerror}") from error
    finally:
        for leftover in temporary.values():
            with contextlib.suppress(OSError):
                leftover.unlink(missing_ok=True)
