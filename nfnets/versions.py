"""Versions of what a result was made with."""

from __future__ import annotations

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
    """Versions of Python and of packages; "not installed" of an absent one."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found
