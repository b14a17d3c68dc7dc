"""Four CPU devices, quick compiling and no silent broadcasting, in every test."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for modules that tests share

from xla_flags import devices  # noqa: E402, after the path that has it

# Read when jax is imported, which no line above does.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices(4)}".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Reads tests/golden/<name>.json."""

    def read(name: str) -> Any:
        return json.loads((HERE / "golden" / f"{name}.json").read_text("utf-8"))

    return read
