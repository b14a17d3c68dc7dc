"""Four CPU devices, quick compiling and no silent broadcasting, in every test."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Read when jax is imported, which no line above does. Of the tests' time, compiling is
# the larger part: they do without most of the compiler's optimizations.
_XLA_FLAGS = (
    "--xla_force_host_platform_device_count=4",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *_XLA_FLAGS])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for golden_fill, which tests share


@pytest.fixture(scope="session")
def golden() -> Callable[[str], Any]:
    """Reads tests/golden/<name>.json."""

    def read(name: str) -> Any:
        return json.loads((HERE / "golden" / f"{name}.json").read_text("utf-8"))

    return read
