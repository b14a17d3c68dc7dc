"""What lies beside an exported file: what it is, what it takes, how to load it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from nfnets.data.normalization import NORMALIZATIONS
from nfnets.export.check import Agreement
from nfnets.export.formats import FORMATS
from nfnets.export.network import Network
from nfnets.training.tested_weights import Tested
from nfnets.versions import RUN_PACKAGES, versions

FORMAT_VERSION = 1


def describe(
    tested: Tested,
    network: Network,
    format_name: str,
    written: Path,
    kind: str,
    names: Sequence[str],
    agreement: Agreement,
) -> dict[str, Any]:
    """The facts, as JSON has them.

    Args:
      tested: where the weights are from.
      network: what was exported.
      format_name: one of ``FORMATS``.
      written: the file or folder.
      kind: "weights" or "moving average".
      names: of the classes, by label.
      agreement: of the exported logits with the network's.
    """
    chosen = FORMATS[format_name]
    return {
        "format_version": FORMAT_VERSION,
        "format": format_name,
        "model": tested.facts["model"],
        "model_overrides": tested.recipe.overrides,
        "weights": f"{tested.facts['weights']} ({kind})",
        "input": _input(tested, network),
        "normalization_inside": _normalization(network.normalization),
        "output": {
            "name": "logits",
            "dtype": "float32",
            "shape": ["batch", len(names)],
        },
        "classes": list(names),
        "checked": dataclasses.asdict(agreement),
        "load": chosen.loading(Path(written.name)).splitlines(),
        "sha256": {
            str(file.relative_to(written.parent)): _sha256(file)
            for file in _files(written)
        },
        "versions": versions((*RUN_PACKAGES, *_packages(chosen.packages))),
    }


def size_of(written: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in _files(written))


def _files(written: Path) -> Iterator[Path]:
    found = sorted(written.rglob("*")) if written.is_dir() else [written]
    return (file for file in found if file.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _input(tested: Tested, network: Network) -> dict[str, Any]:
    """Images, and how they were cropped in the evaluation."""
    side = network.image_size
    return {
        "name": "images",
        "dtype": "uint8",
        "shape": ["batch", side, side, 3],
        "channels": "RGB",
        "crop": dataclasses.asdict(tested.recipe.eval_crop),
    }


def _packages(modules: Sequence[str]) -> list[str]:
    """Names of the packages that hold these modules."""
    packages = metadata.packages_distributions()
    return [packages[module][0] for module in modules]


def _normalization(name: str) -> dict[str, Any]:
    """Mean and deviation that the file itself applies to pixels from 0 to 255."""
    mean, std = NORMALIZATIONS[name]
    return {"name": name, "mean": mean.tolist(), "std": std.tolist()}
