"""The optional C++ backend: one call makes a batch, on native threads.

It is built by ``setup.py`` where a C++ compiler and libjpeg-turbo's headers are, and
gives the same pixels as ``nfnets.data.python_backend``, byte for byte, but for bilinear
crops without antialias that no policy follows, which differ by one grey level at most.
"""

from __future__ import annotations

from types import ModuleType


def load() -> ModuleType:
    """The compiled module; raises ImportError where it was not built."""
    from nfnets.data.native import _native  # type: ignore[attr-defined]

    return _native
