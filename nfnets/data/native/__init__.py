"""The optional C++ backend: one call makes a batch, on native threads.

It is built by ``setup.py`` where a C++ compiler and libjpeg-turbo's headers are, and
gives the same bytes as ``nfnets.data.python_backend``, but for bilinear crops without
antialias, of which half a percent of the values differ by one grey level (and what a
policy makes of these), and for damaged files: it does not see damage outside of a crop.
"""

from __future__ import annotations

import functools
from types import ModuleType


@functools.cache
def load() -> ModuleType:
    """The compiled module.

    Raises:
        ImportError: it was not built, or from other sources than these.
    """
    from nfnets.data.native import _native  # type: ignore[attr-defined]
    from nfnets.data.native.jobs import has_layouts_of

    if not has_layouts_of(_native):
        raise ImportError("the compiled module is of another version; install again")
    return _native
