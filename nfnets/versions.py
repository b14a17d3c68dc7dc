"""Versions of what a result was made with."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterable
from importlib import metadata

# Packages that decide a run's numbers.
RUN_PACKAGES = (
    "nfnets-flax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
)


def versions(packages: Iterable[str] = RUN_PACKAGES) -> dict[str, str]:
    """Versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found
