"""Whose turn it is: many processes may compile at once, one alone is timed.

Compilers try their kernels on the device, and would disturb what is timed. All steps
that a user times on a machine share one lock, so that several commands at once take
turns too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


def compiling() -> contextlib.AbstractContextManager[None]:
    """Waits until nothing is timed, and keeps others from being timed."""
    return _holding(fcntl.LOCK_SH)


def timing() -> contextlib.AbstractContextManager[None]:
    """Waits until nothing is compiled or timed, and keeps others from both."""
    return _holding(fcntl.LOCK_EX)


@contextlib.contextmanager
def _holding(kind: int) -> Iterator[None]:
    path = Path(tempfile.gettempdir()) / f"nfnets-benchmark-{os.getuid()}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, kind)  # given back when the file is closed
        yield
    finally:
        os.close(file)
