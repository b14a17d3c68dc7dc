"""What a reader needs to judge a measurement: machine and versions."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nfnets.errors import UserError
from nfnets.versions import versions

_PACKAGES = (
    "nfnets-flax",
    "numpy",
    "jax",
    "opencv-python-headless",
    "pillow",
    "simplejpeg",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
    "torchvision",
    "timm",
    "nvidia-dali-cuda120",
)


def machine() -> dict[str, Any]:
    """Processor, cores, kernel, load before the start, and the time."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = (line for line in info if line.startswith("model name"))
    return {
        "processor": next(models, "unknown: unknown").partition(":")[2].strip(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load_average": os.getloadavg()[0],
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def surroundings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, machine and versions, for a file of numbers."""
    return {
        "settings": dict(settings),
        "machine": machine(),
        "versions": versions(_PACKAGES),
    }


def check_json(path: str | None) -> None:
    """Raises a UserError where ``write_json`` could not write."""
    if path is None:
        return
    file = Path(path)
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(
            f"--json={path} cannot be written; give a file in a folder that is there"
        )


def write_json(path: str | None, content: Mapping[str, Any]) -> None:
    """Writes all numbers; None writes none."""
    if path is not None:
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def say(message: str) -> None:
    """Progress, beside the table on stdout."""
    print(message, file=sys.stderr, flush=True)
