"""Four CPU devices and no silent broadcasting, in every test."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Read when jax is imported, which no line above does.
_DEVICES = "--xla_force_host_platform_device_count=4"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for golden_fill, which tests share


@pytest.fixture(scope="module")
def compile_quickly() -> Iterator[None]:
    """Where compiling is nearly all the time, and speed is not what is tested."""
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Reads tests/golden/<name>.json."""

    def read(name: str) -> Any:
        return json.loads((HERE / "golden" / f"{name}.json").read_text("utf-8"))

    return read
